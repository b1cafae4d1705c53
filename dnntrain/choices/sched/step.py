"""The learning rate falls by a factor at regular distances."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.choices.sched._base import Curve, Schedule, convert_to_positive_steps
from dnntrain.config.fields import Annotated, Duration, Range
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class Step(Schedule):
    """factor = gamma ** floor(done / step_size) (torch's StepLR)."""

    step_size: Duration = Duration(30, "%")  # interval between two falls: 5000step, 30ep or 30%
    gamma: Annotated[float, Range(above=0)] = 0.1  # factor of each fall; above 1 for sched.applies_to=batch_size

    def make_curve(self, context: BuildContext, length: float) -> Curve:
        step_size = convert_to_positive_steps(
            self.step_size, context, "sched.step_size", is_default=self.step_size == Step.step_size
        )
        return lambda done: self.gamma ** (done // step_size)

    def build(self, context: BuildContext) -> Hooks:
        return self.build_hooks(context)
