"""The learning rate falls by the same share in each step."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.choices.sched._base import Curve, Schedule, convert_to_positive_steps
from dnntrain.config.fields import Annotated, Duration, PositiveDuration, Range
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class Exponential(Schedule):
    """factor = gamma ** (done / step_size), which changes a little in each step.

    It is torch's ExponentialLR with gamma ** (1 / step_size).
    """

    step_size: PositiveDuration = Duration(10, "%")  # length over which the factor falls by gamma: 1000step, 1ep or 10%
    gamma: Annotated[float, Range(above=0)] = 0.5  # factor per step_size; above 1 for sched.applies_to=batch_size

    def make_curve(self, context: BuildContext, length: float) -> Curve:
        step_size = convert_to_positive_steps(
            self.step_size, context, "sched.step_size", is_default=self.step_size == Exponential.step_size
        )
        return lambda done: self.gamma ** (done / step_size)

    def build(self, context: BuildContext) -> Hooks:
        return self.build_hooks(context)
