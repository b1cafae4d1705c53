"""Divide the width of layers among ranks (tensor parallelism).

Source: Shoeybi et al., "Megatron-LM", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.config.fields import PositiveInt
from dnntrain.distributed.parallel_dims import ParallelConfig, ParallelDims


@dataclass(frozen=True)
class Tp(ParallelConfig):
    """Divide the first layer of each pair by outputs, the second by inputs.

    This needs one sum over ranks for each pair, in each direction.
    """

    tp: PositiveInt | None = None  # ranks that share the width of each layer; null: the remaining ranks

    def build(self, ranks: int) -> ParallelDims:
        return self.resolve_dims(ranks)
