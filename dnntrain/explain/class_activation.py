"""Make maps from the activations of a convolution and their gradients: LayerCAM and Grad-CAM."""

from __future__ import annotations

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
        outputs: dict[str, Tensor] = {}
        handle = model.get_submodule(self.layer).register_forward_hook(partial(_store, outputs))
        try:
            with require_gradients(inputs) as images:
                scores = aim.compute_scores(model(images))
                activations = outputs["output"]
                (gradients,) = torch.autograd.grad(scores.sum(), activations, allow_unused=True, materialize_grads=True)
        finally:
            handle.remove()
        return enlarge_maps(self.combine(activations.detach().float(), gradients.float()), *inputs.shape[2:])

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Return the maps [n, rows, columns] of activations and gradients [n, channels, rows, columns]."""
        weights = gradients.relu() if self.name == "layercam" else gradients.mean((2, 3), keepdim=True)
        return (weights * activations).sum(1).relu()


def _store(outputs: dict[str, Tensor], module: nn.Module, inputs: Any, output: Any) -> None:
    outputs["output"] = output


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
