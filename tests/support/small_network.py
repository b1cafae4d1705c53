"""A small network with gradients, for methods that act on parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from stand_ins import built
from torch import nn

from dnntrain.protocols import Hooks
from dnntrain.training.optimizer_step import build_apply


def network(seed: int = 0) -> nn.Module:
    """A convolution with a norm, a hidden linear layer, a head; gradients set."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5), nn.Linear(5, 4)
    )
    with_gradients(model)
    return model


def with_gradients(model: nn.Module) -> None:
    """Sets random gradients."""
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)


def groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights with decay, vectors without."""
    named = list(model.named_parameters())
    return [
        {"params": [item for item in named if item[1].ndim > 1], "weight_decay": weight_decay},
        {"params": [item for item in named if item[1].ndim == 1], "weight_decay": 0.0},
    ]


def step(model: nn.Module, parts: Hooks, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    """One step as the trainer makes it, with the method's transforms; returns what they logged."""
    for transform in parts.model_transforms:
        transform.apply(model)
    for item in parts.gradient_transforms:
        if hasattr(item.apply, "bind"):
            item.apply.bind(built(model, optimizers))
    seen: dict[str, torch.Tensor] = {}
    build_apply(optimizers, list(model.parameters()), parts.gradient_transforms, seen.update, None)()
    return seen
