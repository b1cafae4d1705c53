"""Make maps from the activations of a convolution and their gradients: LayerCAM and Grad-CAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dnntrain.explain.method import Aim, enlarge_maps, require_gradients

#: A map of fewer places a side shows little.
MIN_SIDE = 4


@dataclass(frozen=True)
class ClassActivation:
    """Weigh the channels A [channels, rows, columns] of a layer by the gradient G of the score.

    layercam  relu(sum over channels of relu(G) A): a weight for each place (Jiang et al., "LayerCAM",
              IEEE TIP 2021)
    gradcam   relu(sum over channels of mean(G) A): a weight for each channel (Selvaraju et al.,
              "Grad-CAM", ICCV 2017)
    """

    layer: str
    grid: tuple[int, int]
    name: Literal["layercam", "gradcam"] = "layercam"
    needs_gradients: bool = True
    calls: int = 3

    def compute_maps(self, model: nn.Module, inputs: Tensor, aim: Aim) -> Tensor:
        ((activations, gradients),) = differentiate_layers(model, [self.layer], inputs, aim)
        return enlarge_maps(self.combine(activations, gradients), *inputs.shape[2:])

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Return the maps [n, rows, columns] of activations and gradients [n, channels, rows, columns]."""
        if self.name == "layercam":
            return combine_places(activations, gradients)
        return (gradients.mean((2, 3), keepdim=True) * activations).sum(1).relu()


@dataclass(frozen=True)
class FusedActivation:
    """The geometric mean of the LayerCAM maps of several layers, each divided by its largest value.

    A coarse layer shows the object, and a fine one its outline: a place is relevant if all agree. The
    paper of LayerCAM takes the largest of the maps instead, so that the coarse one keeps its maximum.

    layers  from the coarsest grid to the finest
    grid    the finest grid
    """

    layers: tuple[str, ...]
    grid: tuple[int, int]
    name: str = "fused_layercam"
    needs_gradients: bool = True
    calls: int = 3

    def compute_maps(self, model: nn.Module, inputs: Tensor, aim: Aim) -> Tensor:
        product = torch.ones(len(inputs), *inputs.shape[2:], device=inputs.device)
        for activations, gradients in differentiate_layers(model, self.layers, inputs, aim):
            maps = enlarge_maps(combine_places(activations, gradients), *inputs.shape[2:])
            product = product * maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-30)
        return product ** (1 / len(self.layers))


def combine_places(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return the LayerCAM maps [n, rows, columns] of activations and gradients [n, channels, rows, columns]."""
    return (gradients.relu() * activations).sum(1).relu()


def differentiate_layers(
    model: nn.Module, layers: Sequence[str], inputs: Tensor, aim: Aim
) -> list[tuple[Tensor, Tensor]]:
    """Return the activations of each layer, and the gradients of the score by them, float [n, channels, rows, columns]."""
    outputs: dict[str, Tensor] = {}
    handles = [model.get_submodule(name).register_forward_hook(partial(_store, outputs, name)) for name in layers]
    try:
        with require_gradients(inputs) as images:
            scores = aim.compute_scores(model(images))
            activations = [outputs[name] for name in layers]
            gradients = torch.autograd.grad(scores.sum(), activations, allow_unused=True, materialize_grads=True)
    finally:
        for handle in handles:
            handle.remove()
    return [(output.detach().float(), slope.float()) for output, slope in zip(activations, gradients, strict=True)]


def _store(outputs: dict[str, Tensor], name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    outputs[name] = output


@torch.no_grad()
def list_image_layers(model: nn.Module, inputs: Tensor) -> dict[str, tuple[int, int]]:
    """Map the modules whose output is images [n, channels, rows, columns] to (rows, columns).

    They are in the order in which they end. `inputs` are one example or more.
    """
    grids: dict[str, tuple[int, int]] = {}

    def record(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            grids.pop(name, None)
            grids[name] = (output.shape[2], output.shape[3])

    handles = [module.register_forward_hook(partial(record, name)) for name, module in model.named_modules() if name]
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return grids


def choose_layer(grids: dict[str, tuple[int, int]]) -> str | None:
    """Return the last layer with maps of at least 4x4 places, or the one with the most places.

    None without layers. A layer that returns the output of its last part has the name of the part.
    """
    if not grids:
        return None
    wide = [name for name, grid in grids.items() if min(grid) >= MIN_SIDE]
    return wide[-1] if wide else max(grids, key=lambda name: grids[name][0] * grids[name][1])


def choose_fused_layers(grids: dict[str, tuple[int, int]], layer: str) -> tuple[str, ...]:
    """Return `layer`, and before it in the network the last layer of each finer grid, from coarse to fine."""
    chosen = [layer]
    for name in reversed(list(grids)[: list(grids).index(layer)]):
        if all(mine > other for mine, other in zip(grids[name], grids[chosen[-1]], strict=True)):
            chosen.append(name)
    return tuple(chosen)
