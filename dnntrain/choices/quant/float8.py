"""Quantize linear layers of a trained model to 8-bit floating point, by torchao.

The GPU must multiply in float8.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dnntrain.choices.quant._post_training import PostTraining
from dnntrain.config.fields import Literal, Probability
from dnntrain.errors import ConfigError
from dnntrain.protocols import BuildContext, Hooks, Refusal
from dnntrain.utils.hardware import Hardware

#: Matrix units need multiples of this size.
SIZE_MULTIPLE = 16

#: Replaces a largest value of 0, because torchao would compute 0 / 0 with its scale.
_MIN_VALUE = 2.0**-100

#: Least compute capability of a CUDA device that multiplies in float8.
MIN_CAPABILITY = (8, 9)


@dataclass(frozen=True)
class Float8(PostTraining):
    """Multiply in linear layers x / s and w / s in e4m3.

    s = max|·| / 448 in bfloat16, as the values are. Weights are rounded beforehand, activations at
    each call. The rest of the network is in bfloat16, and so are layers with numbers of inputs or
    outputs that are not multiples of 16. With `granularity=tensor` the scale of an activation
    covers the whole batch, so the result for an example depends on its neighbors. Source:
    Micikevicius et al., "FP8 formats for deep learning", 2022; torchao's
    Float8DynamicActivationFloat8WeightConfig.
    """

    formats: ClassVar[tuple[str, ...]] = ("pt2_cuda",)
    compute_dtype: ClassVar[str] = "bfloat16"

    granularity: Literal["row", "tensor"] = (
        "row"  # one scale per row (each image or token, and each output) or per tensor
    )
    min_quantized_fraction: Probability = (
        0.5  # smallest fraction of multiply-adds in float8; with less, the export fails
    )

    def check_model(self, model: nn.Module) -> None:
        check_layers(model)

    def build(self, context: BuildContext) -> Hooks:
        return Hooks()

    def find_hardware_refusal(self, hardware: Hardware) -> Refusal | None:
        if can_compute_float8(hardware):
            return None
        hardware_name = "a CPU" if hardware.device == "cpu" else hardware.device_name or hardware.device
        if hardware.device == "cuda":
            hardware_name += " of capability {}.{}".format(*hardware.capability)
        capability = "{}.{}".format(*MIN_CAPABILITY)
        return Refusal(
            f"computes in 8-bit floating point, which needs a CUDA device of compute capability {capability} or more; "
            f"this machine has {hardware_name}",
            "use quant=int8_dynamic, or quant=int8_weight_only",
        )


def can_compute_float8(hardware: Hardware) -> bool:
    """Return whether the matrix units of a CUDA device support float8."""
    return hardware.device == "cuda" and hardware.capability >= MIN_CAPABILITY


def is_convertible(module: nn.Module) -> bool:
    """Return whether `module` is a linear layer that can be converted.

    A subclass may compute with its weight in a custom way.
    """
    return type(module) is nn.Linear and not (module.in_features % SIZE_MULTIPLE or module.out_features % SIZE_MULTIPLE)


def check_layers(model: nn.Module) -> None:
    """Raise ConfigError if no layer of `model` can be converted."""
    if not any(is_convertible(module) for module in model.modules()):
        raise ConfigError(
            f"quant=float8 quantizes linear layers with inputs and outputs in multiples of {SIZE_MULTIPLE}, "
            "but this model has none",
            "use quant=int8_static, or quant=none",
        )


def convert_to_float8(model: nn.Module, granularity: str, device: str) -> nn.Module:
    """Return a copy of `model` in bfloat16, with linear layers in float8.

    The copy is on `device`. The layers that `is_convertible` admits are converted. `granularity` is
    row or tensor. Raises ConfigError if no layer can be converted. `model` does not change.
    """
    check_layers(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization: Any = import_module("torchao.quantization")
        scales = {"row": quantization.PerRow, "tensor": quantization.PerTensor}[granularity]()
        # Leave out torchao's settings of Inductor, because they apply to the whole process.
        config = quantization.Float8DynamicActivationFloat8WeightConfig(
            granularity=scales, activation_value_lb=_MIN_VALUE, set_inductor_config=False
        )
        result = copy.deepcopy(model).to(device, torch.bfloat16).eval()
        for module in result.modules():
            if isinstance(module, nn.Linear) and is_convertible(module):
                _fill_zero_rows(module.weight)
        quantization.quantize_(result, config, filter_fn=lambda module, name: is_convertible(module))
    return result


@torch.no_grad()
def _fill_zero_rows(weight: Tensor) -> None:
    """Fill zero rows of `weight` so that their scale is not zero.

    The first weight of such an output becomes a value too small to matter.
    """
    weight[:, 0].masked_fill_(~weight.any(1), _MIN_VALUE)
