"""What all schedules share: a linear warm-up, then a pure function of the step counted from its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from dnntrain.config.fields import Duration, Probability
from dnntrain.errors import ConfigError
from dnntrain.protocols import Context, Control, Moment, Need, Parts, Target


@dataclass(frozen=True)
class Schedule:
    """`warmup` raises the factor linearly from `warmup_from` to 1 (torch's LinearLR), then the schedule's own curve begins."""

    warmup: Duration = Duration(0, "step")  # length of the linear rise: 500step, 1ep or 5%
    warmup_from: Probability = 0.1  # factor at the first step of the warm-up

    needs: ClassVar[frozenset[Need]] = frozenset()

    def parts(self, curve: Callable[[float, float], float], context: Context) -> Parts:
        """The learning-rate control: warm-up, then `curve(done, length)`, both in steps after the warm-up."""
        total = float(context.total_steps)
        warmup = length_in_steps(self.warmup, context, "sched.warmup")
        if total and warmup >= total:
            raise ConfigError(
                f"sched.warmup={self.warmup} is {warmup:g} steps, but the run has {total:g}",
                "shorten the warm-up or lengthen train.duration",
            )
        unit = total or 1.0  # a run by time counts in fractions of itself

        def value(moment: Moment) -> float:
            step = float(moment.step) if total else moment.fraction
            if step < warmup:
                return self.warmup_from + (1 - self.warmup_from) * step / warmup
            return curve(step - warmup, unit - warmup)

        return Parts(controls=(Control(Target.LEARNING_RATE, value),))


def length_in_steps(duration: Duration, context: Context, key: str) -> float:
    """`duration` in steps; in fractions of the run where its length is a time, which only percentages can be."""
    if duration.value == 0:
        return 0.0
    if context.total_steps == 0:
        if duration.unit != "%":
            raise ConfigError(
                f"{key}={duration} needs a run of known length, but train.duration is a time",
                f"give {key} in percent, or train.duration in steps or epochs",
            )
        return duration.value / 100
    if duration.unit == "s":
        raise ConfigError(f"{key}={duration} is a time", "give it in steps, epochs or percent: 500step, 1ep, 5%")
    return float(duration.steps(context.steps_per_epoch, context.total_steps))
