"""Tensor parallelism: the width of layers is divided (Shoeybi et al., "Megatron-LM", 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.config.fields import PositiveInt
from dnntrain.distributed.parallel_dims import ParallelConfig, ParallelDims


@dataclass(frozen=True)
class Tp(ParallelConfig):
    """Of each pair of layers the first is divided by outputs, the second by inputs: one sum over ranks a pair, in each direction."""

    tp: PositiveInt | None = None  # ranks that share the width of each layer; null: the remaining ranks

    def build(self, ranks: int) -> ParallelDims:
        return self.resolve_dims(ranks)
