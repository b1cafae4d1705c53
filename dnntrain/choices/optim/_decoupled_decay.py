"""Decoupled weight decay for any optimizer, by layer.

Loshchilov & Hutter, "Decoupled weight decay regularization", 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dnntrain.nn.validate_transform import validate_transform
from dnntrain.nn.weight_selection import WeightSelection
from dnntrain.protocols import (
    BuildContext,
    GradientStage,
    GradientTransform,
    Hooks,
    TrainerHandles,
)
from dnntrain.utils.dtensor import local_shard


def build_decoupled_decay(rate: float, layer_factor: float, pattern: str, context: BuildContext) -> Hooks:
    """Return hooks that do w = w * (1 - lr * rate * layer_factor^d) before each step.

    w is d layers before the last one. `pattern` selects weights by name. Raises ConfigError if it
    matches none.
    """
    weights = WeightSelection(pattern, "optim.weight_decay_parameters", decayed_only=True)
    decay = DecoupledDecay(rate, layer_factor, weights)
    return Hooks(
        model_transforms=(validate_transform(weights.survey_transform, context),),
        gradient_transforms=(GradientTransform(GradientStage.DECAY, decay),),
        bindings=(decay.bind,),
    )


def compute_layer_rates(names: Sequence[str], rate: float, layer_factor: float) -> dict[str, float]:
    """Return the rate of each weight: rate * layer_factor^d.

    `names` are in the order of the layers. A module is one layer.
    """
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    depth = {layer: len(layers) - 1 - position for position, layer in enumerate(layers)}
    return {name: rate * layer_factor ** depth[name.rpartition(".")[0]] for name in names}


class DecoupledDecay:
    """Shrink the weights at the beginning of the step, as AdamW does.

    Each weight shrinks with the learning rate of its parameter group.
    """

    def __init__(self, rate: float, layer_factor: float, weights: WeightSelection) -> None:
        self._rate, self._layer_factor, self._weights = rate, layer_factor, weights
        self._places: list[tuple[Tensor, dict[str, Any], float]] = []

    def bind(self, handles: TrainerHandles) -> None:
        self._weights.bind(handles)
        groups = {
            name: group
            for optimizer in handles.optimizers
            for group in optimizer.param_groups
            for name in group["param_names"]
        }
        rates = compute_layer_rates(self._weights.names, self._rate, self._layer_factor)
        self._places = [
            (local_shard(parameter.detach()), groups[name], rates[name])
            for name, parameter in self._weights.parameters.items()
        ]

    @torch.no_grad()
    def __call__(self, gradients: Sequence[Tensor]) -> None:
        for weight, group, rate in self._places:
            weight.mul_(1 - group["lr"] * rate)
