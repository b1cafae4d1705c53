"""The learning rate falls by a factor at chosen places."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from dnntrain.choices.sched._base import Curve, Schedule, convert_to_positive_steps
from dnntrain.config.fields import Annotated, Duration, Range
from dnntrain.errors import ConfigError
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class Multistep(Schedule):
    """factor = gamma ** (number of milestones <= done) (torch's MultiStepLR)."""

    milestones: tuple[Duration, ...] = (
        Duration(50, "%"),
        Duration(75, "%"),
    )  # positions of the falls, counted from the end of the warm-up
    gamma: Annotated[float, Range(above=0)] = 0.1  # factor of each fall; above 1 for sched.applies_to=batch_size

    def make_curve(self, context: BuildContext, length: float) -> Curve:
        is_default = self.milestones == Multistep.milestones
        steps = [
            convert_to_positive_steps(item, context, "sched.milestones", is_default=is_default)
            for item in self.milestones
        ]
        if not steps or steps != sorted(steps):
            milestone_list = ",".join(map(str, self.milestones))
            raise ConfigError(f"sched.milestones=[{milestone_list}] must increase", "use sched.milestones=[30ep,60ep]")
        return lambda done: self.gamma ** bisect_right(steps, done)

    def build(self, context: BuildContext) -> Hooks:
        return self.build_hooks(context)
