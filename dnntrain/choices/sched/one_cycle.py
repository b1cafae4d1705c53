"""One cycle: up to the base learning rate, then down to almost nothing.

Smith & Topin, "Super-convergence", 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from dnntrain.choices.sched._base import Curve, Schedule, get_run_length, make_progress_clock
from dnntrain.config.fields import Annotated, Fraction, Literal, Positive, Range
from dnntrain.errors import ConfigError
from dnntrain.protocols import BuildContext, Hooks, ScheduledParam, ScheduledValue, StepInfo


@dataclass(frozen=True)
class OneCycle(Schedule):
    """factor = 1/div_factor → 1 → 1/(div_factor * final_div_factor) (torch's OneCycleLR).

    The rise takes `pct_start` of the run.
    """

    pct_start: Annotated[float, Range(above=0, below=1)] = 0.3  # fraction of the run in which the rate rises
    div_factor: Positive = 25.0  # the first rate is lr / div_factor
    final_div_factor: Positive = 1.0e4  # the last rate is the first rate / final_div_factor
    anneal: Literal["cos", "linear"] = "cos"  # shape of both halves
    cycle_momentum: bool = False  # true: move the momentum against the rate, between base_momentum and max_momentum
    base_momentum: Fraction = 0.85  # momentum when the rate is highest
    max_momentum: Fraction = 0.95  # momentum when the rate is lowest

    def make_curve(self, context: BuildContext, length: float) -> Curve:
        start, end = 1 / self.div_factor, 1 / (self.div_factor * self.final_div_factor)
        has_whole_steps = get_run_length(context) > 0
        return lambda done: one_cycle_factor(
            done, length, self.pct_start, (start, 1.0, end), self.anneal, has_whole_steps
        )

    def build(self, context: BuildContext) -> Hooks:
        hooks = self.build_hooks(context)
        if not self.cycle_momentum:
            return hooks
        if any(scheduled_value.target is ScheduledParam.MOMENTUM for scheduled_value in hooks.scheduled_values):
            raise ConfigError(
                "sched.cycle_momentum=true and momentum in sched.applies_to both set the momentum",
                "set sched.cycle_momentum=false, or sched.applies_to=lr",
            )
        return replace(
            hooks,
            scheduled_values=(
                *hooks.scheduled_values,
                ScheduledValue(ScheduledParam.MOMENTUM, self._make_momentum(context)),
            ),
        )

    def _make_momentum(self, context: BuildContext) -> Callable[[StepInfo], float]:
        """Return the momentum, which moves against the rate.

        It keeps its first value during the warm-up. From the beginning of the cool-down it does not
        change.
        """
        total = get_run_length(context)
        get_progress = make_progress_clock(context)
        end = total or 1.0
        warmup, cooldown = self.measure_ends(context)
        last = end - cooldown
        momenta = (self.max_momentum, self.base_momentum, self.max_momentum)

        def momentum(step_info: StepInfo) -> float:
            done = max(min(get_progress(step_info), last) - warmup, 0.0)
            return one_cycle_factor(
                done, end - warmup, self.pct_start, momenta, self.anneal, has_whole_steps=bool(total)
            )

        return momentum


def one_cycle_factor(
    done: float, length: float, pct_start: float, values: tuple[float, float, float], anneal: str, has_whole_steps: bool
) -> float:
    """Return the value after `done` of `length` steps: first → peak → last.

    has_whole_steps  true: lengths are whole steps, and the last step is length - 1
    """
    first, peak, last = values
    end_of_rise = pct_start * length - has_whole_steps
    end_of_run = length - has_whole_steps
    if done <= end_of_rise and end_of_rise > 0:
        return _anneal_between(first, peak, done / end_of_rise, anneal)
    return _anneal_between(peak, last, min((done - end_of_rise) / (end_of_run - end_of_rise), 1.0), anneal)


def _anneal_between(start: float, end: float, share: float, anneal: str) -> float:
    if anneal == "cos":
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
    return start + (end - start) * share
