"""Measure each layer of a network: its weights, its units, and its error in 8-bit integers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.choices.quant._fake_quant import fake_quantize_activation, fake_quantize_weight
from dnntrain.protocols import Batch, Task


@dataclass(frozen=True)
class LayerFacts:
    """The measurements of one layer with a weight matrix or filters, on a batch of examples.

    rms             root mean square of the weights
    gradient        norm of the gradient of the mean loss, over the norm of the weights
    rank            effective rank of the weights as a share of the largest possible: exp of the entropy of
                    the normalized singular values (Roy & Vetterli, EUSIPCO 2007)
    dead            share of the units that change no outcome: constant, or without gradient
    idle            share of the outputs (of all examples, units and places) without gradient
    weight_snr      signal to noise of the weights in 8-bit integers, dB
    output_snr      signal to noise of the outputs if weights and inputs are in 8-bit integers, dB
    """

    name: str
    kind: str
    parameters: int
    units: int
    rms: float
    gradient: float
    rank: float
    dead: float
    idle: float
    weight_snr: float
    output_snr: float


def find_layer_faults(layers: Sequence[LayerFacts]) -> dict[str, list[str]]:
    """Return the signs of broken layers by name; a sound layer has an empty list.

    No gradient passes a dead layer, so that all layers before it look dead: the last one is named.
    """
    dead = [layer.name for layer in layers if layer.dead == 1]
    faults: dict[str, list[str]] = {}
    for layer in layers:
        signs = faults.setdefault(layer.name, [])
        if layer.dead == 1:
            signs += ["dead: no unit changes an outcome"] if layer.name == dead[-1] else []
        elif layer.dead >= 0.5:
            signs.append(f"{layer.dead:.0%} of the units are dead")
        if layer.output_snr < 10:
            signs.append(f"its outputs in integers are mostly noise ({layer.output_snr:.0f} dB): a range is too wide")
    return faults


def list_weight_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutions and linear layers by name."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def measure_layers(model: nn.Module, task: Task, batch: Batch) -> list[LayerFacts]:
    """Return the facts of each layer that the model calls, in the order of the model.

    The batch is labeled examples, on the device of the model.
    """
    layers = list_weight_layers(model)
    calls: dict[str, tuple[Tensor, Tensor]] = {}
    handles = [layer.register_forward_hook(partial(_record, calls, name)) for name, layer in layers.items()]
    needed = [parameter.requires_grad for parameter in model.parameters()]
    try:
        model.requires_grad_(True)
        with torch.enable_grad():
            inputs = batch.inputs.detach().clone()
            outputs = model(inputs.requires_grad_() if inputs.is_floating_point() else inputs)
            loss = task.compute_losses(outputs.float(), batch).mean()
            names = list(calls)
            weights = [layers[name].weight for name in names]
            tensors = [*(calls[name][1] for name in names), *weights]
            gradients = torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)  # type: ignore[arg-type]
    finally:
        for handle in handles:
            handle.remove()
        for parameter, flag in zip(model.parameters(), needed, strict=True):
            parameter.requires_grad_(flag)
    return [
        _measure_layer(name, layers[name], *calls[name], gradients[number], gradients[len(names) + number])
        for number, name in enumerate(names)
    ]


def _record(
    calls: dict[str, tuple[Tensor, Tensor]], name: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor
) -> Tensor:
    # Operations in place, such as ReLU, change the input later, and the copy of the output that is returned.
    calls[name] = (inputs[0].detach().clone(), output)
    return output.clone()


@torch.no_grad()
def _measure_layer(
    name: str, layer: nn.Module, inputs: Tensor, output: Tensor, gradient: Tensor, weight_gradient: Tensor
) -> LayerFacts:
    weight: Tensor = layer.weight  # type: ignore[assignment]
    matrix = weight.detach().float().flatten(1)
    axis = 1 if isinstance(layer, nn.Conv1d | nn.Conv2d) else -1
    by_unit = [values.detach().float().movedim(axis, 0).flatten(1) for values in (output, gradient)]
    spread = by_unit[0].amax(1) - by_unit[0].amin(1)
    # With the same input for all examples, a constant output is the fault of an earlier layer.
    varies = len(inputs) > 1 and bool((inputs != inputs[:1]).any())
    dead = ((spread == 0) & varies) | (by_unit[1] == 0).all(1)
    with integer_layers({name: layer}, {name: measure_reach(inputs)}):
        rounded = layer(inputs)
    exact = layer(inputs)
    return LayerFacts(
        name,
        type(layer).__name__.lower(),
        sum(parameter.numel() for parameter in layer.parameters(recurse=False)),
        len(matrix),
        float(matrix.square().mean().sqrt()),
        float(weight_gradient.norm() / weight.norm().clamp_min(1e-30)),
        compute_effective_rank(matrix) / min(matrix.shape),
        float(dead.double().mean()),
        float((by_unit[1] == 0).double().mean()),
        compute_snr(matrix, fake_quantize_weight(weight.detach()).float().flatten(1)),
        compute_snr(exact.float(), rounded.float()),
    )


def compute_effective_rank(matrix: Tensor) -> float:
    """Return exp(entropy of the singular values, divided by their sum) of a matrix; 0 for a zero matrix."""
    values = torch.linalg.svdvals(matrix.double())
    shares = values / values.sum().clamp_min(1e-300)
    entropy = -(shares * shares.clamp_min(1e-300).log()).sum()
    return float(entropy.exp()) if float(values.sum()) > 0 else 0.0


def compute_snr(signal: Tensor, other: Tensor) -> float:
    """Return 10 log10(mean signal² / mean (signal - other)²), dB, at most 200; 200 if both are equal."""
    noise = float((signal - other).double().square().mean())
    power = float(signal.double().square().mean())
    if noise == 0:
        return 200.0
    return min(200.0, 10 * math.log10(max(power, 1e-300) / noise))


def measure_reach(inputs: Tensor) -> Tensor:
    """Return the reach [2] = (-smallest, largest) of values, each at least 0."""
    smallest, largest = torch.aminmax(inputs.detach().float())
    return torch.stack([-smallest, largest]).clamp_min(0)


@torch.no_grad()
def measure_reaches(model: nn.Module, batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the reach of the inputs of each layer over batches of calibration examples."""
    reaches: dict[str, Tensor] = {}

    def record(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        reach = measure_reach(inputs[0])
        reaches[name] = torch.maximum(reaches[name], reach) if name in reaches else reach

    handles = [
        layer.register_forward_pre_hook(partial(record, name)) for name, layer in list_weight_layers(model).items()
    ]
    try:
        for inputs in batches:
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return reaches


@contextmanager
def integer_layers(layers: dict[str, nn.Module], reaches: dict[str, Tensor]) -> Iterator[None]:
    """Let layers compute with weights and inputs that 8-bit integers can represent, during the body.

    Weights have a scale for each filter, inputs one scale and zero, as in `quant=int8_static`. Gradients
    pass through the rounding.
    """
    with ExitStack() as stack:
        for name, layer in layers.items():
            if name not in reaches:
                continue
            handle = layer.register_forward_pre_hook(partial(_round_inputs, reaches[name]))
            stack.callback(handle.remove)
            weight: Tensor = layer.weight  # type: ignore[assignment]
            original = weight.data
            weight.data = fake_quantize_weight(original).detach()
            stack.callback(setattr, weight, "data", original)
        yield


def _round_inputs(reach: Tensor, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (fake_quantize_activation(inputs[0], reach), *inputs[1:])
