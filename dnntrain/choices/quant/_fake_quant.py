"""Train with fake quantization.

Forward passes compute with the values that 8-bit integers can represent. Backward passes ignore the
rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.choices.quant._quant_points import QuantPoints, find_quant_points
from dnntrain.nn.grad_strides import keep_grad_strides

#: Largest integer of a weight; -128 is unused, so that a filter and its negative round alike.
WEIGHT_MAX = 127

#: Largest integer of an activation; the smallest is 0.
ACTIVATION_MAX = 255

#: The places where a tensor is quantized: before a module, or after it.
PLACES = ("input", "output")

#: The reach of a tensor that was never observed.
_UNSEEN_REACH = 8.0

_MIN_SCALE = 2.0**-24


def compute_activation_scale(reach: Tensor) -> tuple[Tensor, Tensor]:
    """Return (scale, zero) of a tensor of `reach` [2] = (-smallest, largest).

    Both reaches are at least 0, so that 0 is represented exactly. scale = (largest - smallest) /
    255, zero = round(-smallest / scale) in [0, 255], int32 (Jacob et al., 2018, section 3.1).
    """
    scale = (reach.sum() / ACTIVATION_MAX).clamp_min(_MIN_SCALE)
    return scale, (reach[0] / scale).round().clamp(0, ACTIVATION_MAX).to(torch.int32)


def fake_quantize_activation(values: Tensor, reach: Tensor) -> Tensor:
    """Return scale (clamp(round(x / scale) + zero, 0, 255) - zero).

    Gradients pass if x is within the reach, and are 0 elsewhere.
    """
    scale, zero = compute_activation_scale(reach)
    result: Tensor = torch.fake_quantize_per_tensor_affine(values.float(), scale, zero, 0, ACTIVATION_MAX)
    return result.to(values.dtype)


def compute_weight_scale(weight: Tensor) -> Tensor:
    """Return the scales [filters]: max|w| / 127 of each filter of `weight` [filters, …]."""
    return weight.detach().flatten(1).abs().amax(1).div(WEIGHT_MAX).clamp_min(_MIN_SCALE)


def fake_quantize_weight(weight: Tensor, factor: Tensor | None = None) -> Tensor:
    """Return scale clamp(round(w / scale), -127, 127) with a scale per filter.

    Gradients pass unchanged. With `factor` [filters], `factor w` is rounded: the filter of the
    convolution with folded batch normalization. The result is divided by `factor` again, since the
    normalization follows.
    """
    weight = keep_grad_strides(weight)
    shape = (-1, *[1] * (weight.ndim - 1))
    folded = (weight if factor is None else weight * factor.view(shape)).float()
    scale = compute_weight_scale(folded)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    result: Tensor = torch.fake_quantize_per_channel_affine(folded, scale, zero, 0, -WEIGHT_MAX, WEIGHT_MAX)
    result = result.to(weight.dtype)
    return result if factor is None else result / factor.view(shape)


def compute_folding_factor(norm: nn.Module) -> Tensor:
    """Return the factor [channels] that a batch normalization applies to filters.

    It is weight / sqrt(running variance + eps), or 1 if the weight is 0, and carries no gradient.
    Training normalizes with the statistics of the batch: that is the folded filter with the
    correction of Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference",
    2018, section 3.2.2. With frozen statistics, both are the same.
    """
    variance: Any = norm.running_var
    factor = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.detach()  # type: ignore[operator]
    return torch.where(factor == 0, torch.ones_like(factor), factor)


def observe_and_quantize(module: nn.Module, place: str, values: Tensor) -> Tensor:
    """Observe and quantize `values` at the `place` of `module`.

    The extremes are recorded while the module observes; the values are rounded while it quantizes.
    """
    if module.observes and module.training and values.numel():
        smallest, largest = torch.aminmax(values.detach())
        if module.starts_at_0 and place == "output":
            smallest = torch.zeros_like(smallest)
        extremes: Tensor = getattr(module, f"{place}_seen")
        extremes.copy_(torch.maximum(extremes, torch.stack([-smallest, largest]).float()))
    return fake_quantize_activation(values, getattr(module, f"{place}_reach")) if module.quantizes else values


class FakeConv2d(nn.Conv2d):
    """A convolution with quantized inputs and filters.

    `folded` holds the batch normalization that follows, or is empty.
    """

    folded: tuple[nn.Module, ...]
    folding: Tensor

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if hasattr(self, "input_reach"):
            input = observe_and_quantize(self, "input", input)
        if self.quantizes:
            weight = fake_quantize_weight(weight, self._get_folding_factor())
        outputs: Tensor = super()._conv_forward(input, weight, bias)
        return outputs

    def _get_folding_factor(self) -> Tensor | None:
        """Return the folding factor, or None without a folded batch normalization.

        Training uses the factor from the begin of the step: running statistics change with each
        micro-batch, and before a recomputed forward pass.
        """
        if not self.folded:
            return None
        return self.folding if self.training else compute_folding_factor(self.folded[0])


class FakeLinear(nn.Linear):
    """A linear layer with quantized inputs and weights. `folded` is always empty."""

    folded: tuple[nn.Module, ...]

    def forward(self, input: Tensor) -> Tensor:
        if hasattr(self, "input_reach"):
            input = observe_and_quantize(self, "input", input)
        return nn.functional.linear(
            input, fake_quantize_weight(self.weight) if self.quantizes else self.weight, self.bias
        )


def insert_fake_quantization(model: nn.Module, shape: Sequence[int]) -> QuantPoints:
    """Prepare `model` to observe and quantize inputs of `shape`.

    At first it does neither. No parameter, module or saved buffer is added or renamed. Raises
    ConfigError if a layer cannot be quantized.
    """
    flow = find_quant_points(model, shape)
    modules = dict(model.named_modules())
    for name in flow.layers:
        layer = modules[name]
        original_class = type(layer)
        layer.__class__ = FakeConv2d if isinstance(layer, nn.Conv2d) else FakeLinear
        _reset_flags(layer)
        layer.fake_built_as = original_class
        layer.folded = (modules[flow.folded[name]],) if name in flow.folded else ()
        if layer.folded:
            layer.register_buffer("folding", compute_folding_factor(layer.folded[0]), persistent=False)
    for place, names in zip(PLACES, (flow.inputs, flow.outputs), strict=True):
        for name in names:
            module = modules[name]
            _reset_flags(module)
            device = next((tensor.device for tensor in model.parameters()), None)
            module.register_buffer(f"{place}_reach", torch.full((2,), _UNSEEN_REACH, device=device), persistent=False)
            module.register_buffer(f"{place}_seen", torch.full((2,), -math.inf, device=device), persistent=False)
            if place == "output":
                module.starts_at_0 = name in flow.relu
                module.register_forward_hook(_OUTPUT_HOOK)
    return flow


def _reset_flags(module: nn.Module) -> None:
    for name in ("observes", "quantizes", "starts_at_0"):
        setattr(module, name, False)


def _process_output(place: str, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return observe_and_quantize(module, place, output)


_OUTPUT_HOOK = partial(_process_output, "output")


@torch.no_grad()
def update_folding_factors(model: nn.Module) -> None:
    """Update the folding factors for training from the current statistics and weights."""
    for layer in model.modules():
        if isinstance(layer, FakeConv2d) and layer.folded:
            layer.folding.copy_(compute_folding_factor(layer.folded[0]))


def list_fake_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules of `model` that can quantize."""
    return [module for module in model.modules() if hasattr(module, "quantizes")]


def map_reaches(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Map `module.place` to (module, place) for every quantized tensor.

    The order is the order of the model.
    """
    return {
        f"{name}.{place}": (module, place)
        for name, module in model.named_modules()
        for place in PLACES
        if f"{place}_reach" in module._buffers
    }


def apply_ranges(model: nn.Module, shape: Sequence[int], ranges: Mapping[str, Sequence[float]]) -> nn.Module:
    """Return the float network `model`, prepared to round with `ranges`.

    `ranges` are a result of `get_ranges`. Raises ValueError if they belong to another model.
    """
    insert_fake_quantization(model, shape)
    reach_places = map_reaches(model)
    if set(reach_places) != set(ranges):
        raise ValueError(f"the ranges belong to other layers: {sorted(set(reach_places) ^ set(ranges))[:5]}")
    for name, (module, place) in reach_places.items():
        reach: Tensor = getattr(module, f"{place}_reach")
        reach.copy_(torch.tensor([float(number) for number in ranges[name]]))
    for module in list_fake_modules(model):
        module.quantizes = True  # type: ignore[assignment]
    return model


def get_ranges(model: nn.Module) -> dict[str, list[float]]:
    """Map `module.place` to [-smallest, largest] for every rounded tensor.

    The result is empty if the model does not round.
    """
    if not any(module.quantizes for module in list_fake_modules(model)):
        return {}
    return {name: getattr(module, f"{place}_reach").tolist() for name, (module, place) in map_reaches(model).items()}


def remove_fake_quantization(model: nn.Module) -> nn.Module:
    """Return `model` as before `insert_fake_quantization`, with its current weights."""
    for module in list_fake_modules(model):
        if isinstance(module, FakeConv2d | FakeLinear):
            module.__class__ = module.fake_built_as  # type: ignore[assignment]
            del module.fake_built_as, module.folded
            if "folding" in module._buffers:
                del module.folding
        for place in PLACES:
            for kind in ("reach", "seen"):
                if f"{place}_{kind}" in module._buffers:
                    delattr(module, f"{place}_{kind}")
        for number, hook in list(module._forward_hooks.items()):
            if isinstance(hook, partial) and hook.func is _process_output:
                del module._forward_hooks[number]
        del module.observes, module.quantizes, module.starts_at_0
    return model
