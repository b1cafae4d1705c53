"""What ranks must say to each other to save one checkpoint. One process says nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def _gather_single(data: bytes) -> list[bytes]:
    return [data]


@dataclass(frozen=True)
class RankExchange:
    """This rank's number, and how all ranks exchange bytes: `gather(data)` gives each rank's, in the order of ranks, to all."""

    rank: int = 0
    gather: Callable[[bytes], list[bytes]] = _gather_single

    def gather_json(self, value: Any) -> list[Any]:
        """Every rank's `value`, which JSON can hold, on every rank. All ranks must ask."""
        return [json.loads(data) for data in self.gather(json.dumps(value).encode())]
