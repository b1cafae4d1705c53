"""AdamW: Adam with decoupled weight decay, by torch.optim.AdamW, fused.

Loshchilov & Hutter, 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from dnntrain.choices.optim._base import OptimizerChoice
from dnntrain.choices.optim._param_groups import ParameterOptions
from dnntrain.config.fields import Fraction, Literal, NonNegative, Positive


@dataclass(frozen=True)
class AdamW(OptimizerChoice):
    """Steps of about lr in every coordinate, with decoupled weight decay.

    Weights shrink by lr * weight_decay per step.
    """

    lr: Positive = 2e-3  # base learning rate; the schedule multiplies it
    weight_decay: NonNegative = 0.01  # weight decay; biases and norms have none
    beta1: Fraction = 0.9  # decay of the mean of gradients
    beta2: Fraction = 0.999  # decay of the mean of squared gradients
    eps: Positive = 1e-8  # added to the root of the second moment

    width_rule: ClassVar[Literal["elementwise", "spectral", "other"]] = "elementwise"

    def build(
        self, model: nn.Module, options: Mapping[str, ParameterOptions] | None = None
    ) -> tuple[torch.optim.Optimizer, ...]:
        return (
            torch.optim.AdamW(
                self.make_param_groups(model, options),
                lr=self.lr,
                betas=(self.beta1, self.beta2),
                eps=self.eps,
                fused=True,
            ),
        )
