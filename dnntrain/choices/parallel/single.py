"""Train in one process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.distributed.parallel_dims import ParallelDims
from dnntrain.protocols import ParallelChoice


@dataclass(frozen=True)
class Single(ParallelChoice):
    """Hold the whole model and every batch in one process."""

    processes: ClassVar[str] = "one"

    @property
    def required_ranks(self) -> int | None:
        """Return 1, whatever the machine has."""
        return 1

    def build(self, ranks: int) -> ParallelDims:
        return ParallelDims(replicate=ranks)
