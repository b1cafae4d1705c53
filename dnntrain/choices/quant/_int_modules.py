"""Convert a trained model to integer weights and explicit rounding operators.

Integer kernels replace these operators.
"""

from __future__ import annotations

import copy
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dnntrain.choices.quant._fake_quant import (
    ACTIVATION_MAX,
    WEIGHT_MAX,
    FakeConv2d,
    FakeLinear,
    compute_activation_scale,
    compute_weight_scale,
    map_reaches,
    remove_fake_quantization,
)


def convert_to_integers(model: nn.Module) -> nn.Module:
    """Return a copy of a rounding `model` in the form of a quantized program.

    The form is that of PT2E and ONNX: quantize → dequantize around each layer. Weights are int8, q
    = clamp(round(w / scale), -127, 127), with folded batch normalization: w γ / sqrt(variance + ε),
    bias (b - mean) γ / sqrt(variance + ε) + β. The outputs equal those of `model` in eval mode up
    to rounding of floats. `model` does not change.
    """
    register_operators()
    model = copy.deepcopy(model).eval()
    places = {
        name: (module, place, _get_qparams(module, place)) for name, (module, place) in map_reaches(model).items()
    }
    layers = [(layer, layer.folded) for layer in model.modules() if isinstance(layer, FakeConv2d | FakeLinear)]
    remove_fake_quantization(model)
    for layer, folded in layers:
        _store_integers(layer, *folded)
    for module, place, (scale, zero) in places.values():
        if place == "input":
            module.register_forward_pre_hook(partial(_round_input, scale, zero))
        else:
            module.register_forward_hook(partial(_round_output, scale, zero))
    return model


def register_operators() -> None:
    """Register the quantized operators.

    torchao registers them when its integer flow is imported.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")


def _get_qparams(module: nn.Module, place: str) -> tuple[float, int]:
    scale, zero = compute_activation_scale(getattr(module, f"{place}_reach"))
    return float(scale), int(zero)


def quantize_dequantize(values: Tensor, scale: float, zero: int) -> Tensor:
    """Convert `values` to uint8 and back."""
    operators: Any = torch.ops.quantized_decomposed
    integers = operators.quantize_per_tensor.default(values, scale, zero, 0, ACTIVATION_MAX, torch.uint8)
    result: Tensor = operators.dequantize_per_tensor.default(integers, scale, zero, 0, ACTIVATION_MAX, torch.uint8)
    return result


def _round_input(scale: float, zero: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (quantize_dequantize(inputs[0], scale, zero), *inputs[1:])


def _round_output(scale: float, zero: int, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return quantize_dequantize(output, scale, zero)


class IntegerConv2d(nn.Conv2d):
    """A convolution with an int8 weight."""

    def forward(self, input: Tensor) -> Tensor:
        outputs: Tensor = self._conv_forward(input, _dequantize_weight(self), self.bias)
        return outputs


class IntegerLinear(nn.Linear):
    """A linear layer with an int8 weight."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, _dequantize_weight(self), self.bias)


class FoldedNorm(nn.Module):
    """The rest of a folded batch normalization.

    timm's batch normalization also holds a dropout and an activation.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        for inner in self.children():
            inputs = inner(inputs)
        return inputs


def _dequantize_weight(layer: Any) -> Tensor:
    result: Tensor = torch.ops.quantized_decomposed.dequantize_per_channel.default(
        layer.integers, layer.scales, layer.zeros, 0, -WEIGHT_MAX, WEIGHT_MAX, torch.int8
    )
    return result


@torch.no_grad()
def _store_integers(layer: Any, norm: Any = None) -> None:
    weight, bias = layer.weight.detach(), layer.bias
    if norm is not None:
        weight, bias = fuse_conv_bn_weights(
            weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            delattr(norm, name)
        norm.__class__ = FoldedNorm
    scales = compute_weight_scale(weight)
    integers = (weight / scales.view(-1, *[1] * (weight.ndim - 1))).round().clamp(-WEIGHT_MAX, WEIGHT_MAX)
    del layer.weight, layer.bias
    layer.register_buffer("integers", integers.to(torch.int8))
    layer.register_buffer("scales", scales)
    layer.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int64))
    layer.register_buffer("bias", None if bias is None else bias.detach())
    layer.__class__ = IntegerConv2d if isinstance(layer, nn.Conv2d) else IntegerLinear
