"""LARS (You et al., "Large batch training of convolutional networks", 2017; timm.optim.Lars)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from dnntrain.choices.optim._base import OptimizerChoice, check_nesterov
from dnntrain.choices.optim._param_groups import ParameterOptions
from dnntrain.choices.optim.lamb import mark_adaptive_groups
from dnntrain.config.fields import Fraction, NonNegative, Positive


@dataclass(frozen=True)
class Lars(OptimizerChoice):
    """v = momentum v + r (g + weight_decay w); w = w - lr v.

    r = trust |w| / (|g| + weight_decay |w|) for weights and 1 for vectors.
    """

    lr: Positive = 2.0  # base learning rate; the schedule multiplies it
    weight_decay: NonNegative = 5e-5  # L2 penalty on weights; biases and norms have none
    momentum: Fraction = 0.9  # momentum; 0: none
    nesterov: bool = False  # true: look-ahead form; needs momentum
    trust_coefficient: Positive = (
        0.001  # norm of a weight's step, before lr and momentum, as a fraction of the weight's norm
    )
    trust_clip: bool = False  # true: at most the step of plain SGD (LARC)

    batch_rule: ClassVar[Literal["linear", "sqrt"]] = "linear"
    package: ClassVar[str] = "timm"
    state_floats_per_parameter: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nesterov(self.nesterov, self.momentum)

    def build(
        self, model: nn.Module, options: Mapping[str, ParameterOptions] | None = None
    ) -> tuple[torch.optim.Optimizer, ...]:
        from timm.optim.lars import Lars as TimmLars

        return (
            TimmLars(
                mark_adaptive_groups(self.make_param_groups(model, options)),
                lr=self.lr,
                momentum=self.momentum,
                nesterov=self.nesterov,
                trust_coeff=self.trust_coefficient,
                trust_clip=self.trust_clip,
            ),
        )
