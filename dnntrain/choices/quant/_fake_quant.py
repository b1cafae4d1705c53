"""Fake quantisation: forward passes with the numbers that 8-bit integers can hold, backward passes as if nothing were rounded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.choices.quant._quant_points import Flow, watched
from dnntrain.nn.grad_strides import own_strides

#: Largest integer of a weight; -128 is not used, so that a filter and its negative round alike.
WEIGHT_MAX = 127

#: Largest integer of an activation; the smallest is 0.
ACTIVATION_MAX = 255

#: Where a tensor is quantised: before a module, or after it.
PLACES = ("input", "output")

#: The reach of a tensor that was never seen.
_UNSEEN = 8.0

_SMALLEST = 2.0**-24


def activation_scale(reach: Tensor) -> tuple[Tensor, Tensor]:
    """(scale, zero) of a tensor of `reach` [2] = (-smallest, largest), both at least 0, so that 0 is held exactly.

    scale = (largest - smallest) / 255, zero = round(-smallest / scale) in [0, 255], int32 (Jacob et al., 2018, section 3.1).
    """
    scale = (reach.sum() / ACTIVATION_MAX).clamp_min(_SMALLEST)
    return scale, (reach[0] / scale).round().clamp(0, ACTIVATION_MAX).to(torch.int32)


def fake_activation(values: Tensor, reach: Tensor) -> Tensor:
    """scale (clamp(round(x / scale) + zero, 0, 255) - zero); gradients pass where x is within the reach, and are 0 elsewhere."""
    scale, zero = activation_scale(reach)
    found: Tensor = torch.fake_quantize_per_tensor_affine(values.float(), scale, zero, 0, ACTIVATION_MAX)
    return found.to(values.dtype)


def weight_scale(weight: Tensor) -> Tensor:
    """[filters]: the largest absolute value of each filter of `weight` [filters, …], divided by 127."""
    return weight.detach().flatten(1).abs().amax(1).div(WEIGHT_MAX).clamp_min(_SMALLEST)


def fake_weight(weight: Tensor, factor: Tensor | None = None) -> Tensor:
    """scale clamp(round(w / scale), -127, 127) with a scale for each filter; gradients pass unchanged.

    With `factor` [filters] the filter that is rounded is `factor w`, that of the convolution with batch normalisation folded in; the
    result is divided by `factor` again, since the normalisation follows.
    """
    weight = own_strides(weight)
    shape = (-1, *[1] * (weight.ndim - 1))
    folded = (weight if factor is None else weight * factor.view(shape)).float()
    scale = weight_scale(folded)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    found: Tensor = torch.fake_quantize_per_channel_affine(folded, scale, zero, 0, -WEIGHT_MAX, WEIGHT_MAX)
    found = found.to(weight.dtype)
    return found if factor is None else found / factor.view(shape)


def folding_factor(norm: nn.Module) -> Tensor:
    """[channels]: weight / sqrt(running variance + eps) of a batch normalisation, with 1 where its weight is 0; without gradient.

    Training normalises with the batch's own statistics: that is the folded filter with the correction of Krishnamoorthi,
    "Quantizing deep convolutional networks for efficient inference", 2018, section 3.2.2. Frozen, both are the same.
    """
    variance: Any = norm.running_var
    factor = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.detach()  # type: ignore[operator]
    return torch.where(factor == 0, torch.ones_like(factor), factor)


def passed(module: nn.Module, place: str, values: Tensor) -> Tensor:
    """`values` at the `place` of `module`: their extremes are noted while it observes, and they are rounded while it quantises."""
    if module.observes and module.training and values.numel():
        smallest, largest = torch.aminmax(values.detach())
        if module.starts_at_0 and place == "output":
            smallest = torch.zeros_like(smallest)
        seen: Tensor = getattr(module, f"{place}_seen")
        seen.copy_(torch.maximum(seen, torch.stack([-smallest, largest]).float()))
    return fake_activation(values, getattr(module, f"{place}_reach")) if module.quantises else values


class FakeConv2d(nn.Conv2d):
    """A convolution of quantised inputs and filters. `folded` holds the batch normalisation that follows, or nothing."""

    folded: tuple[nn.Module, ...]
    folding: Tensor

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if hasattr(self, "input_reach"):
            input = passed(self, "input", input)
        if self.quantises:
            weight = fake_weight(weight, self._factor())
        outputs: Tensor = super()._conv_forward(input, weight, bias)
        return outputs

    def _factor(self) -> Tensor | None:
        """While training that of the step's begin: running statistics move with each micro-batch, and before a recomputed forward pass."""
        if not self.folded:
            return None
        return self.folding if self.training else folding_factor(self.folded[0])


class FakeLinear(nn.Linear):
    """A linear layer of quantised inputs and weights. Nothing is `folded` in."""

    folded: tuple[nn.Module, ...]

    def forward(self, input: Tensor) -> Tensor:
        if hasattr(self, "input_reach"):
            input = passed(self, "input", input)
        return nn.functional.linear(input, fake_weight(self.weight) if self.quantises else self.weight, self.bias)


def inserted(model: nn.Module, shape: Sequence[int]) -> Flow:
    """Makes `model`, which takes images of `shape`, one that can observe and quantise; as yet it does neither.

    No parameter, module or saved buffer is added or renamed. Raises ConfigError where a layer cannot be quantised.
    """
    flow = watched(model, shape)
    modules = dict(model.named_modules())
    for name in flow.layers:
        layer = modules[name]
        built_as = type(layer)
        layer.__class__ = FakeConv2d if isinstance(layer, nn.Conv2d) else FakeLinear
        _prepare(layer)
        layer.fake_built_as = built_as
        layer.folded = (modules[flow.folded[name]],) if name in flow.folded else ()
        if layer.folded:
            layer.register_buffer("folding", folding_factor(layer.folded[0]), persistent=False)
    for place, names in zip(PLACES, (flow.inputs, flow.outputs), strict=True):
        for name in names:
            module = modules[name]
            _prepare(module)
            device = next((tensor.device for tensor in model.parameters()), None)
            module.register_buffer(f"{place}_reach", torch.full((2,), _UNSEEN, device=device), persistent=False)
            module.register_buffer(f"{place}_seen", torch.full((2,), -math.inf, device=device), persistent=False)
            if place == "output":
                module.starts_at_0 = name in flow.relu
                module.register_forward_hook(_HOOK)
    return flow


def _prepare(module: nn.Module) -> None:
    for name in ("observes", "quantises", "starts_at_0"):
        setattr(module, name, False)


def _output(place: str, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return passed(module, place, output)


_HOOK = partial(_output, "output")


@torch.no_grad()
def refold(model: nn.Module) -> None:
    """Takes the folding factors that training uses from the statistics and weights that there are now."""
    for layer in model.modules():
        if isinstance(layer, FakeConv2d) and layer.folded:
            layer.folding.copy_(folding_factor(layer.folded[0]))


def prepared(model: nn.Module) -> list[nn.Module]:
    """The modules of `model` that can quantise."""
    return [module for module in model.modules() if hasattr(module, "quantises")]


def reaches(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """`module.place` → (module, place) of every tensor that is quantised, in the order of the model."""
    return {
        f"{name}.{place}": (module, place)
        for name, module in model.named_modules()
        for place in PLACES
        if f"{place}_reach" in module._buffers
    }


def with_ranges(model: nn.Module, shape: Sequence[int], ranges: Mapping[str, Sequence[float]]) -> nn.Module:
    """`model`, a float network, as one that rounds with the `ranges` that `ranges_of` gave. Raises ValueError where they are of another."""
    inserted(model, shape)
    found = reaches(model)
    if set(found) != set(ranges):
        raise ValueError(f"ranges of other layers: {sorted(set(found) ^ set(ranges))[:5]}")
    for name, (module, place) in found.items():
        reach: Tensor = getattr(module, f"{place}_reach")
        reach.copy_(torch.tensor([float(number) for number in ranges[name]]))
    for module in prepared(model):
        module.quantises = True  # type: ignore[assignment]
    return model


def ranges_of(model: nn.Module) -> dict[str, list[float]]:
    """`module.place` → [-smallest, largest] of every tensor that `model` rounds; empty where it does not round."""
    if not any(module.quantises for module in prepared(model)):
        return {}
    return {name: getattr(module, f"{place}_reach").tolist() for name, (module, place) in reaches(model).items()}


def restored(model: nn.Module) -> nn.Module:
    """`model` as it was before `inserted`, with the weights it has now."""
    for module in prepared(model):
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
            if isinstance(hook, partial) and hook.func is _output:
                del module._forward_hooks[number]
        del module.observes, module.quantises, module.starts_at_0
    return model
