"""Divide the depth of the model among ranks (pipeline parallelism).

Source: Huang et al., "GPipe", 2019; Narayanan et al., "PipeDream", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.config.fields import PositiveInt
from dnntrain.distributed.parallel_dims import ParallelConfig, ParallelDims


@dataclass(frozen=True)
class Pp(ParallelConfig):
    """Hold consecutive blocks on each rank.

    Micro-batches flow through, so that all ranks work at once. Stages are balanced by cost.
    """

    pp: PositiveInt | None = None  # ranks that share the depth; null: the remaining ranks

    def build(self, ranks: int) -> ParallelDims:
        return self.resolve_dims(ranks)
