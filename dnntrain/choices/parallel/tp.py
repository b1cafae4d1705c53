"""Tensor parallelism: the width of layers is divided (Shoeybi et al., "Megatron-LM", 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.config.fields import PositiveInt
from dnntrain.distributed.parallel_dims import Degrees, Layout


@dataclass(frozen=True)
class Tp(Layout):
    """Of each pair of layers the first is divided by outputs, the second by inputs: one sum over ranks a pair, in each direction."""

    tp: PositiveInt | None = None  # ranks that share the width of each layer; null: the ranks that are left

    def build(self, ranks: int) -> Degrees:
        return self.degrees(ranks)
