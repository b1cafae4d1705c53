"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter, 2019; torch.optim.AdamW, fused)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from dnntrain.config.fields import Fraction, NonNegative, Positive
from dnntrain.optim.groups import parameter_groups


@dataclass(frozen=True)
class AdamW:
    """Steps of about lr in every coordinate; weights shrink by lr * weight_decay per step besides."""

    lr: Positive = 2e-3  # base learning rate; the schedule multiplies it
    beta1: Fraction = 0.9  # decay of the mean of gradients
    beta2: Fraction = 0.999  # decay of the mean of squared gradients
    eps: Positive = 1e-8  # added to the root of the second mean
    weight_decay: NonNegative = 0.01  # on weights; biases and norms have none

    def build(self, model: nn.Module) -> tuple[torch.optim.Optimizer, ...]:
        return (
            torch.optim.AdamW(
                parameter_groups(model.named_parameters(), self.weight_decay),
                lr=self.lr,
                betas=(self.beta1, self.beta2),
                eps=self.eps,
                fused=True,
            ),
        )
