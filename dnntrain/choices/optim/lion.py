"""Lion: the sign of an interpolated momentum, by timm.optim.Lion.

Chen et al., "Symbolic discovery of optimization algorithms", 2023.
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
from dnntrain.utils._torch_private import add_lerp_rule
from dnntrain.utils.dtensor import is_sharded


@dataclass(frozen=True)
class Lion(OptimizerChoice):
    """w = w (1 - lr weight_decay) - lr sign(β1 m + (1 - β1) g); m = β2 m + (1 - β2) g.

    Its state takes half of AdamW's memory.
    """

    lr: Positive = 2e-4  # base learning rate, 3 to 10 times below AdamW's; the schedule multiplies it
    weight_decay: NonNegative = 0.1  # weight decay, 3 to 10 times AdamW's; biases and norms have none
    beta1: Fraction = 0.9  # share of the momentum in the step
    beta2: Fraction = 0.99  # decay of the momentum

    package: ClassVar[str] = "timm"
    state_floats_per_parameter: ClassVar[float] = 1.0
    width_rule: ClassVar[Literal["elementwise", "spectral", "other"]] = "elementwise"

    def build(
        self, model: nn.Module, options: Mapping[str, ParameterOptions] | None = None
    ) -> tuple[torch.optim.Optimizer, ...]:
        from timm.optim.lion import Lion as TimmLion

        if any(is_sharded(parameter) for parameter in model.parameters()):
            add_lerp_rule()
        groups = self.make_param_groups(model, options)
        return (TimmLion(groups, lr=self.lr, betas=(self.beta1, self.beta2), foreach=True),)
