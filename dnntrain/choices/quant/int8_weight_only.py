"""Quantize weights of linear layers and embeddings to 8-bit integers; compute in floating point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dnntrain.choices.quant._post_training import PostTraining
from dnntrain.errors import ConfigError
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class Int8WeightOnly(PostTraining):
    """Store weights of linear layers (torchao) and embeddings as int8, with one scale per channel or row.

    Weights are converted to floats at each use. This takes a quarter of the size, and less memory
    traffic if a batch is small; no multiply-add runs in integers.
    """

    formats: ClassVar[tuple[str, ...]] = ("pt2_int8",)
    is_weight_only: ClassVar[bool] = True

    def check_model(self, model: nn.Module) -> None:
        if not any(isinstance(module, nn.Linear) for module in model.modules()):
            raise ConfigError(
                "quant=int8_weight_only quantizes linear layers only, and this model has none",
                "use quant=int8_static, or quant=none",
            )

    def build(self, context: BuildContext) -> Hooks:
        return Hooks()
