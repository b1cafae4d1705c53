"""LAMB, by timm.optim.Lamb.

You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from dnntrain.choices.optim._base import OptimizerChoice
from dnntrain.choices.optim._param_groups import ParameterOptions
from dnntrain.config.fields import Fraction, NonNegative, Positive
from dnntrain.protocols import BuildContext, Hooks, TrainerHandles


@dataclass(frozen=True)
class Lamb(OptimizerChoice):
    """u = m̂ / (√v̂ + eps) + weight_decay w; w = w - lr (|w| / |u|) u.

    Vectors take Adam's step, without the factor |w| / |u|.
    """

    lr: Positive = 5e-3  # base learning rate; the schedule multiplies it
    weight_decay: NonNegative = 0.02  # weight decay, within the scaled step; biases and norms have none
    beta1: Fraction = 0.9  # decay of the mean of gradients
    beta2: Fraction = 0.999  # decay of the mean of squared gradients
    eps: Positive = 1e-6  # added to the root of the second moment
    trust_clip: bool = False  # true: never scale a step up, only down

    package: ClassVar[str] = "timm"
    supports_unfreezing: ClassVar[bool] = False

    def build(
        self, model: nn.Module, options: Mapping[str, ParameterOptions] | None = None
    ) -> tuple[torch.optim.Optimizer, ...]:
        from timm.optim.lamb import Lamb as TimmLamb

        return (
            TimmLamb(
                mark_adaptive_groups(self.make_param_groups(model, options)),
                lr=self.lr,
                betas=(self.beta1, self.beta2),
                eps=self.eps,
                max_grad_norm=None,  # reg=[grad_clip] clips
                trust_clip=self.trust_clip,
            ),
        )

    def build_hooks(self, context: BuildContext) -> Hooks:
        step_count = StepCountState()
        return Hooks.merge(
            [super().build_hooks(context), Hooks(state={"lamb": step_count}, bindings=(step_count.bind,))]
        )


def mark_adaptive_groups(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups with steps scaled to the norm of each weight, except for vectors.

    Steps are also scaled in groups without weight decay.
    """
    return [{**group, "always_adapt": not group["vector"]} for group in groups]


class StepCountState:
    """The number of steps done, which timm stores per group, not per parameter.

    It is the same in all groups.
    """

    def __init__(self) -> None:
        self._optimizers: Sequence[torch.optim.Optimizer] = ()

    def bind(self, handles: TrainerHandles) -> None:
        self._optimizers = handles.optimizers

    def state_dict(self) -> dict[str, Any]:
        steps = [int(group["step"]) for group in self._get_groups() if "step" in group]
        return {"steps": max(steps, default=0)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for group in self._get_groups():
            group["step"] = torch.tensor(float(state["steps"]))

    def _get_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]
