"""Adam (Kingma & Ba, 2015; torch.optim.Adam, fused)."""

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
class Adam(OptimizerChoice):
    """w = w - lr m̂ / (√v̂ + eps), with m̂ = m / (1 - β1^t) and v̂ = v / (1 - β2^t).

    m = β1 m + (1 - β1) g and v = β2 v + (1 - β2) g²; g includes the L2 term.
    """

    lr: Positive = 1e-3  # base learning rate; the schedule multiplies it
    weight_decay: NonNegative = 0.0  # L2 penalty, added to the gradient; biases and norms have none
    beta1: Fraction = 0.9  # decay of the mean of gradients
    beta2: Fraction = 0.999  # decay of the mean of squared gradients
    eps: Positive = 1e-8  # added to the root of the second moment
    amsgrad: bool = False  # true: divide by the largest second moment so far

    width_rule: ClassVar[Literal["elementwise", "spectral", "other"]] = "elementwise"

    def build(
        self, model: nn.Module, options: Mapping[str, ParameterOptions] | None = None
    ) -> tuple[torch.optim.Optimizer, ...]:
        return (
            torch.optim.Adam(
                self.make_param_groups(model, options),
                lr=self.lr,
                betas=(self.beta1, self.beta2),
                eps=self.eps,
                amsgrad=self.amsgrad,
                fused=True,
            ),
        )
