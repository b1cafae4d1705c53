"""8-bit integers for the weights of linear layers; arithmetic stays in floating point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dnntrain.choices.quant._post_training import PostTraining
from dnntrain.errors import ConfigError
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class Int8WeightOnly(PostTraining):
    """Weights of linear layers as int8 with a scale a channel, turned back to floats where they are used (torchao).

    A quarter of the size, and less memory traffic where a batch is small; not one multiply-add runs in integers.
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
