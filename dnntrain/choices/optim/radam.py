"""RAdam: Adam with rectified first steps, by torch.optim.RAdam.

Liu et al., "On the variance of the adaptive learning rate", 2020.
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
class RAdam(OptimizerChoice):
    """Adam's step times a factor that grows to 1 as the second mean becomes reliable.

    The first steps use momentum alone. RAdam needs no warm-up.
    """

    lr: Positive = 1e-3  # base learning rate; the schedule multiplies it
    weight_decay: NonNegative = 0.0  # weight decay; biases and norms have none
    beta1: Fraction = 0.9  # decay of the mean of gradients
    beta2: Fraction = 0.999  # decay of the mean of squared gradients
    eps: Positive = 1e-8  # added to the root of the second moment
    decoupled: bool = True  # true: weights shrink as in AdamW; false: L2 penalty, added to the gradient

    width_rule: ClassVar[Literal["elementwise", "spectral", "other"]] = "elementwise"

    def build(
        self, model: nn.Module, options: Mapping[str, ParameterOptions] | None = None
    ) -> tuple[torch.optim.Optimizer, ...]:
        return (
            torch.optim.RAdam(
                self.make_param_groups(model, options),
                lr=self.lr,
                betas=(self.beta1, self.beta2),
                eps=self.eps,
                decoupled_weight_decay=self.decoupled,
                foreach=True,
            ),
        )
