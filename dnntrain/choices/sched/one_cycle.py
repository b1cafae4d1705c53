"""One cycle: up to the base learning rate, then down to almost nothing (Smith & Topin, "Super-convergence", 2018)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from dnntrain.choices.sched._base import Curve, Schedule, clock, length_in_steps, run_length
from dnntrain.config.fields import Annotated, Fraction, Literal, Positive, Range
from dnntrain.errors import ConfigError
from dnntrain.protocols import Context, Control, Moment, Parts, Target


@dataclass(frozen=True)
class OneCycle(Schedule):
    """As torch's OneCycleLR: 1/div_factor → 1 over `rise` of the run, then → 1/(div_factor * final_div_factor)."""

    rise: Annotated[float, Range(above=0, below=1)] = 0.3  # part of the run in which the rate rises
    div_factor: Positive = 25.0  # first rate is lr / div_factor
    final_div_factor: Positive = 1.0e4  # last rate is the first rate / final_div_factor
    anneal: Literal["cos", "linear"] = "cos"  # shape of both halves
    cycle_momentum: bool = False  # move the momentum against the rate, between the two values below
    base_momentum: Fraction = 0.85  # momentum where the rate is highest
    max_momentum: Fraction = 0.95  # momentum where the rate is lowest

    def curve(self, context: Context, length: float) -> Curve:
        start, end = 1 / self.div_factor, 1 / (self.div_factor * self.final_div_factor)
        whole = run_length(context) > 0
        return lambda done: one_cycle(done, length, self.rise, (start, 1.0, end), self.anneal, whole)

    def build(self, context: Context) -> Parts:
        parts = self.scheduled(context)
        if not self.cycle_momentum:
            return parts
        if any(control.target is Target.MOMENTUM for control in parts.controls):
            raise ConfigError(
                "sched.cycle_momentum=true and momentum in sched.param both set the momentum",
                "set sched.cycle_momentum=false, or sched.param=lr",
            )
        return replace(parts, controls=(*parts.controls, Control(Target.MOMENTUM, self._momentum(context))))

    def _momentum(self, context: Context) -> Callable[[Moment], float]:
        """Against the rate; it stands at its first value during the warm-up, and at that of the cool-down's begin after it."""
        total = run_length(context)
        done_at = clock(context)
        end = total or 1.0
        warmup = length_in_steps(self.warmup, context, "sched.warmup")
        last = end - length_in_steps(self.cooldown, context, "sched.cooldown")
        momenta = (self.max_momentum, self.base_momentum, self.max_momentum)

        def momentum(moment: Moment) -> float:
            done = max(min(done_at(moment), last) - warmup, 0.0)
            return one_cycle(done, end - warmup, self.rise, momenta, self.anneal, whole=bool(total))

        return momentum


def one_cycle(
    done: float, length: float, rise: float, values: tuple[float, float, float], anneal: str, whole: bool
) -> float:
    """The value after `done` of `length` steps: first → peak → last. `whole`: lengths are whole steps, the last one being length - 1."""
    first, peak, last = values
    end_of_rise = rise * length - whole
    end_of_run = length - whole
    if done <= end_of_rise and end_of_rise > 0:
        return _between(first, peak, done / end_of_rise, anneal)
    return _between(peak, last, min((done - end_of_rise) / (end_of_run - end_of_rise), 1.0), anneal)


def _between(start: float, end: float, share: float, anneal: str) -> float:
    if anneal == "cos":
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
    return start + (end - start) * share
