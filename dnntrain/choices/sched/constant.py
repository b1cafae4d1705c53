"""The same learning rate throughout; with a warm-up and a cool-down, a trapezoid."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.choices.sched._base import Curve, Schedule
from dnntrain.config.fields import NonNegative
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class Constant(Schedule):
    """factor = a constant (torch's ConstantLR)."""

    factor: NonNegative = 1.0  # the factor; a value other than 1 is for a stage of sched=sequence

    def make_curve(self, context: BuildContext, length: float) -> Curve:
        return lambda done: self.factor

    def build(self, context: BuildContext) -> Hooks:
        return self.build_hooks(context)
