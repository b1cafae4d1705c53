"""Decoupled weight decay for any optimizer (Loshchilov & Hutter, "Decoupled weight decay regularization", 2019), by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dnntrain.choices.reg._validate import validate_transform
from dnntrain.choices.reg._weight_selection import WeightSelection
from dnntrain.config.fields import Positive
from dnntrain.errors import ConfigError
from dnntrain.protocols import (
    BuildContext,
    GradientStage,
    GradientTransform,
    Hooks,
    RegChoice,
    TrainerHandles,
)
from dnntrain.utils.dtensor import local_shard


@dataclass(frozen=True)
class WeightDecay(RegChoice):
    """Before each step w = w * (1 - lr * rate * by_layer^d), d layers before the last one; needs optim.weight_decay=0."""

    rate: Positive = 0.05  # of the last layer; the learning rate of the moment multiplies it
    by_layer: Positive = 1.0  # factor from each layer to the one before it; below 1 layers near the input decay less
    where: str = "*"  # pattern of names of the weights that decay; biases and norms never do

    def build(self, context: BuildContext) -> Hooks:
        weights = WeightSelection(self.where, "reg.weight_decay.where")
        decay = DecoupledDecay(self.rate, self.by_layer, weights)
        return Hooks(
            model_transforms=(validate_transform(weights.survey_transform, context),),
            gradient_transforms=(GradientTransform(GradientStage.DECAY, decay),),
            bindings=(decay.bind,),
        )


def compute_layer_rates(names: Sequence[str], rate: float, by_layer: float) -> dict[str, float]:
    """The rate of each weight, named in the order of the layers: rate * by_layer^d. Weights of one module are of one layer."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    depth = {layer: len(layers) - 1 - position for position, layer in enumerate(layers)}
    return {name: rate * by_layer ** depth[name.rpartition(".")[0]] for name in names}


class DecoupledDecay:
    """Shrinks the weights where the step begins, as AdamW does; each with the learning rate of its parameter group."""

    def __init__(self, rate: float, by_layer: float, weights: WeightSelection) -> None:
        self._rate, self._by_layer, self._weights = rate, by_layer, weights
        self._places: list[tuple[Tensor, dict[str, Any], float]] = []

    def bind(self, handles: TrainerHandles) -> None:
        self._weights.bind(handles)
        groups = {
            name: group
            for optimizer in handles.optimizers
            for group in optimizer.param_groups
            for name in group["param_names"]
        }
        if any(group.get("weight_decay") for group in groups.values()):
            raise ConfigError(
                "reg.weight_decay and the optimizer both shrink the weights",
                "use optim.weight_decay=0 and no weight_decay in optim.groups",
            )
        rates = compute_layer_rates(self._weights.names, self._rate, self._by_layer)
        self._places = [
            (local_shard(parameter.detach()), groups[name], rates[name])
            for name, parameter in self._weights.parameters.items()
        ]

    @torch.no_grad()
    def __call__(self, gradients: Sequence[Tensor]) -> None:
        for weight, group, rate in self._places:
            weight.mul_(1 - group["lr"] * rate)
