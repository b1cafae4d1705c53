"""One cycle: up to the base learning rate, then down to almost nothing (Smith & Topin, "Super-convergence", 2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dnntrain.config.fields import Annotated, Fraction, Literal, Positive, Range
from dnntrain.protocols import Context, Control, Moment, Parts, Target
from dnntrain.sched.schedule import Schedule


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

    def build(self, context: Context) -> Parts:
        start, end = 1 / self.div_factor, 1 / (self.div_factor * self.final_div_factor)

        def curve(done: float, length: float) -> float:
            return one_cycle(done, length, self.rise, (start, 1.0, end), self.anneal, whole=bool(context.total_steps))

        parts = self.parts(curve, context)
        if not self.cycle_momentum:
            return parts
        momenta = (self.max_momentum, self.base_momentum, self.max_momentum)

        def momentum(moment: Moment) -> float:
            done, length = (
                (float(moment.step), float(context.total_steps)) if context.total_steps else (moment.fraction, 1.0)
            )
            return one_cycle(done, length, self.rise, momenta, self.anneal, whole=bool(context.total_steps))

        return replace(parts, controls=(*parts.controls, Control(Target.MOMENTUM, momentum)))


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
