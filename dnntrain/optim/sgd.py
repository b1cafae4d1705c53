"""Stochastic gradient descent with momentum (torch.optim.SGD, fused)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from dnntrain.config.fields import Fraction, NonNegative, Positive
from dnntrain.optim.groups import parameter_groups


@dataclass(frozen=True)
class Sgd:
    """v = momentum * v + gradient + weight_decay * w; w = w - lr * v (or the Nesterov form)."""

    lr: Positive = 0.1  # base learning rate; the schedule multiplies it
    momentum: Fraction = 0.9  # 0: none
    nesterov: bool = True  # look-ahead form; needs momentum
    weight_decay: NonNegative = 5e-4  # L2 penalty on weights; biases and norms have none

    def build(self, model: nn.Module) -> tuple[torch.optim.Optimizer, ...]:
        return (
            torch.optim.SGD(
                parameter_groups(model.named_parameters(), self.weight_decay),
                lr=self.lr,
                momentum=self.momentum,
                nesterov=self.nesterov and self.momentum > 0,
                fused=True,
            ),
        )
