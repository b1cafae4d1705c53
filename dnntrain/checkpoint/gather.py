"""Exchange data between ranks to save a checkpoint; a no-op in a single process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def _gather_single(data: bytes) -> list[bytes]:
    return [data]


@dataclass(frozen=True)
class RankExchange:
    """The number of this rank, and the exchange of bytes between all ranks.

    `gather(data)` returns the data of each rank, in rank order, on all ranks.
    """

    rank: int = 0
    gather: Callable[[bytes], list[bytes]] = _gather_single

    @property
    def is_alone(self) -> bool:
        """Whether this is the only rank."""
        return self.gather is _gather_single

    def gather_json(self, value: Any) -> list[Any]:
        """Return every rank's `value`, a JSON value, on every rank.

        All ranks must call this.
        """
        return [json.loads(data) for data in self.gather(json.dumps(value).encode())]
