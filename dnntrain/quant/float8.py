"""8-bit floating-point weights and activations, for GPUs that compute in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.config.fields import Literal
from dnntrain.protocols import Context, Parts
from dnntrain.quant.post_training import PostTraining


@dataclass(frozen=True)
class Float8(PostTraining):
    """Linear layers in float8 (e4m3), activations scaled as they come (torchao). Needs a GPU of compute capability 8.9 or more."""

    formats: ClassVar[tuple[str, ...]] = ("pt2_int8",)

    granularity: Literal["tensor", "row"] = "row"  # one scale for each tensor, or for each of its rows

    def build(self, context: Context) -> Parts:
        return Parts()
