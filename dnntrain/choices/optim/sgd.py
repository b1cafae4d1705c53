"""Stochastic gradient descent with momentum (torch.optim.SGD, fused if possible)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from dnntrain.choices.optim._base import OptimizerChoice, check_nesterov
from dnntrain.choices.optim._param_groups import ParameterOptions
from dnntrain.config.fields import Fraction, NonNegative, Positive


@dataclass(frozen=True)
class Sgd(OptimizerChoice):
    """v = momentum * v + gradient + weight_decay * w; w = w - lr * v (or the Nesterov form)."""

    lr: Positive = 0.1  # base learning rate; the schedule multiplies it
    weight_decay: NonNegative = 5e-4  # L2 penalty on weights; biases and norms have none
    momentum: Fraction = 0.9  # momentum; 0: none
    nesterov: bool = False  # true: look-ahead form; needs momentum

    batch_rule: ClassVar[Literal["linear", "sqrt"]] = "linear"
    state_floats_per_parameter: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nesterov(self.nesterov, self.momentum)

    def build(
        self, model: nn.Module, options: Mapping[str, ParameterOptions] | None = None
    ) -> tuple[torch.optim.Optimizer, ...]:
        return (
            SGD(
                self.make_param_groups(model, options),
                lr=self.lr,
                momentum=self.momentum,
                nesterov=self.nesterov,
                fused=True,
            ),
        )


class SGD(torch.optim.SGD):
    """torch's SGD whose parameters may get their first gradients at different steps.

    torch's fused kernel needs the momentum of all parameters of a group or of none. A momentum of
    zeros gives the first step that no momentum gives.
    """

    def _init_group(self, group: Any, params: Any, grads: Any, momentum_buffer_list: Any) -> Any:
        has_sparse_gradient = super()._init_group(group, params, grads, momentum_buffer_list)  # type: ignore[no-untyped-call]
        missing = [number for number, buffer in enumerate(momentum_buffer_list) if buffer is None]
        if len(missing) < len(momentum_buffer_list):
            for number in missing:
                momentum_buffer_list[number] = torch.zeros_like(params[number])
        return has_sparse_gradient
