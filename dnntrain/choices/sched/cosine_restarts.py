"""Half cosines, each from the base learning rate (Loshchilov & Hutter, "SGDR", 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.choices.sched._base import Curve, Schedule, convert_to_positive_steps
from dnntrain.choices.sched.cosine import cosine_factor
from dnntrain.config.fields import Annotated, Duration, NonNegative, PositiveDuration, Range
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """factor = end_factor + (1 - end_factor) * (1 + cos(pi * t / T)) / 2.

    t is the number of steps since the current cosine of length T began (torch's
    CosineAnnealingWarmRestarts).
    """

    t_0: PositiveDuration = Duration(25, "%")  # length of the first cosine: 5000step, 10ep or 25%
    t_mult: Annotated[float, Range(at_least=1)] = 1.0  # length of each cosine, as a multiple of the previous one
    end_factor: NonNegative = 0.0  # factor at the end of each cosine

    def make_curve(self, context: BuildContext, length: float) -> Curve:
        first_length = convert_to_positive_steps(
            self.t_0, context, "sched.t_0", is_default=self.t_0 == CosineRestarts.t_0
        )
        return lambda done: cosine_factor(*locate_in_cycle(done, first_length, self.t_mult), self.end_factor)

    def build(self, context: BuildContext) -> Hooks:
        return self.build_hooks(context)


def locate_in_cycle(done: float, first: float, growth: float) -> tuple[float, float]:
    """Return (steps into the cycle, its length) after `done` steps.

    Cycle n has the length first * growth ** n.
    """
    if growth == 1:
        return done % first, first
    start, length = 0.0, first
    # Sum up the lengths as torch does: a logarithm misses a bound by its rounding.
    while done >= start + length:
        start, length = start + length, length * growth
    return done - start, length
