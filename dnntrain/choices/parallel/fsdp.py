"""Shard data-parallel training fully, by torch's FSDP2 (`fully_shard`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.config.fields import PositiveInt
from dnntrain.distributed.parallel_dims import ParallelConfig, ParallelDims


@dataclass(frozen=True)
class Fsdp(ParallelConfig):
    """Shard weights, gradients and optimizer state over all ranks.

    The weights of a block are gathered when it computes (Zhao et al., VLDB 2023).
    """

    shard: PositiveInt | None = None  # ranks that share one replica of the weights; null: the remaining ranks

    uses_fsdp: ClassVar[bool] = True

    def build(self, ranks: int) -> ParallelDims:
        return self.resolve_dims(ranks)
