"""A power of the remaining share of the run."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.choices.sched._base import Curve, Schedule
from dnntrain.config.fields import NonNegative, Positive
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class Polynomial(Schedule):
    """factor = end_factor + (1 - end_factor) * (1 - done / length) ** power.

    It is torch's PolynomialLR with `end_factor`.
    """

    power: Positive = 2.0  # exponent; 1: a straight line; higher: low for longer
    end_factor: NonNegative = 0.0  # factor at the end of the run

    def make_curve(self, context: BuildContext, length: float) -> Curve:
        return lambda done: polynomial_factor(done, length, self.power, self.end_factor)

    def build(self, context: BuildContext) -> Hooks:
        return self.build_hooks(context)


def polynomial_factor(done: float, length: float, power: float, end: float) -> float:
    """Return the factor after `done` of `length` steps."""
    left: float = max(1 - done / length, 0.0) ** power
    return end + (1 - end) * left
