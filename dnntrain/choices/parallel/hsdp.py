"""Shard with FSDP2 within groups of ranks, and replicate between groups."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from dnntrain.config.fields import PositiveInt
from dnntrain.distributed.parallel_dims import ParallelConfig, ParallelDims


@dataclass(frozen=True)
class Hsdp(ParallelConfig):
    """Shard within groups, such as machines with fast links.

    Gradients are summed over the groups (Zhao et al., VLDB 2023).
    """

    replicate: PositiveInt | None = (
        None  # groups, each with a whole replica of the model; null: 2, or the number left by shard
    )
    shard: PositiveInt | None = None  # ranks per group; null: the remaining ranks

    uses_fsdp: ClassVar[bool] = True

    def build(self, ranks: int) -> ParallelDims:
        layout = replace(self, replicate=2) if self.replicate is None and self.shard is None else self
        return layout.resolve_dims(ranks)
