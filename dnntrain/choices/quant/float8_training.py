"""Train with 8-bit floating-point matrix products, by torchao.

Source: Micikevicius et al., "FP8 formats for deep learning", 2022.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

from torch import nn

from dnntrain.config.fields import Literal, PositiveInt
from dnntrain.errors import ConfigError
from dnntrain.protocols import (
    BuildContext,
    Claim,
    Hooks,
    LayoutRequirement,
    ModelStage,
    ModelTransform,
    QuantChoice,
    Refusal,
    Role,
)
from dnntrain.utils.hardware import Hardware

_MIN_CAPABILITY = (8, 9)

#: Matrix units need multiples of this size.
_SIZE_MULTIPLE = 16


@dataclass(frozen=True)
class Float8Training(QuantChoice):
    """Multiply in linear layers in float8, forward and backward.

    Scales follow from the current values: x / s, s = max|x| / largest float8. Inputs and weights
    are e4m3; gradients are e5m2, or e4m3 with `granularity=row`. Weights and optimizer state keep
    their format, and an export holds the plain network. For GPUs of compute capability 8.9 or more.
    """

    granularity: Literal["tensor", "row"] = "tensor"  # one scale per tensor, which is faster, or per row
    min_layer_size: PositiveInt = 256  # smallest number of inputs and outputs of a converted layer

    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset({LayoutRequirement.WHOLE_MODEL})

    def get_claims(self) -> tuple[Claim, ...]:
        return (Claim(Role.LINEAR_FORM, "quant=float8_training", "use precision=bf16 and quant=none"),)

    def find_hardware_refusal(self, hardware: Hardware) -> Refusal | None:
        if hardware.capability >= _MIN_CAPABILITY:
            return None
        return Refusal(
            "computes in 8-bit floating point, which needs a GPU of compute capability 8.9 or more",
            "use precision=bf16, or quant=none",
        )

    def build(self, context: BuildContext) -> Hooks:
        return Hooks(
            model_transforms=(ModelTransform(ModelStage.QUANTIZE, self.convert_model),),
            export_transforms=(restore_linear_layers,),
        )

    def convert_model(self, model: nn.Module, emulate: bool = False) -> nn.Module:
        """Return `model` with its large linear layers in float8.

        With `emulate`, values are rounded to float8 and multiplied in float32, on any device, for
        tests. Raises ConfigError if the model has no such layer.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            float8: Any = import_module("torchao.float8")
        recipe = {"tensor": "tensorwise", "row": "rowwise"}[self.granularity]
        config = float8.Float8LinearConfig.from_recipe_name(recipe)
        # Batches of a size that the matrix units do not support are filled up with zeros.
        object.__setattr__(config, "pad_inner_dim", True)
        object.__setattr__(config, "emulate", emulate)
        if not any(self.is_convertible(module) for module in model.modules()):
            raise ConfigError(
                f"quant=float8_training: the model has no linear layer of {self.min_layer_size} inputs and outputs "
                f"in multiples of {_SIZE_MULTIPLE}",
                f"set quant.min_layer_size={_SIZE_MULTIPLE}, or use precision=bf16",
            )
        result: nn.Module = float8.convert_to_float8_training(
            model, module_filter_fn=lambda module, name: self.is_convertible(module), config=config
        )
        return result

    def is_convertible(self, module: nn.Module) -> bool:
        """Return whether `module` is a linear layer to convert."""
        if type(module) is not nn.Linear:
            return False
        sizes = (module.in_features, module.out_features)
        return min(sizes) >= self.min_layer_size and not any(size % _SIZE_MULTIPLE for size in sizes)


def restore_linear_layers(model: nn.Module) -> nn.Module:
    """Return `model` with plain linear layers that hold the trained weights."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and type(module).__name__ == "Float8Linear":
            module.__class__ = nn.Linear
            for name in set(vars(module)) - set(vars(nn.Linear(1, 1))):
                delattr(module, name)
    return model
