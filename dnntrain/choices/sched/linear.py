"""A straight line from `start_factor` to `end_factor`."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.choices.sched._base import Curve, Schedule
from dnntrain.config.fields import NonNegative
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class Linear(Schedule):
    """factor = start_factor + (end_factor - start_factor) * done / length (torch's LinearLR)."""

    start_factor: NonNegative = 1.0  # factor after the warm-up
    end_factor: NonNegative = 0.0  # factor at the end of the run

    def make_curve(self, context: BuildContext, length: float) -> Curve:
        return lambda done: linear_factor(done, length, self.start_factor, self.end_factor)

    def build(self, context: BuildContext) -> Hooks:
        return self.build_hooks(context)


def linear_factor(done: float, length: float, start: float, end: float) -> float:
    """Return the factor after `done` of `length` steps."""
    return start + (end - start) * min(done / length, 1.0)
