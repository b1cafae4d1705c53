"""Half a cosine from the base learning rate down to `end_factor`.

Loshchilov & Hutter, "SGDR", 2017, without restarts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dnntrain.choices.sched._base import Curve, Schedule
from dnntrain.config.fields import NonNegative
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class Cosine(Schedule):
    """factor = end_factor + (1 - end_factor) * (1 + cos(pi * done / length)) / 2.

    It is torch's CosineAnnealingLR.
    """

    end_factor: NonNegative = 0.0  # factor at the end of the run; above 1 it rises

    def make_curve(self, context: BuildContext, length: float) -> Curve:
        return lambda done: cosine_factor(done, length, self.end_factor)

    def build(self, context: BuildContext) -> Hooks:
        return self.build_hooks(context)


def cosine_factor(done: float, length: float, end: float) -> float:
    """Return the factor after `done` of `length` steps."""
    return end + (1 - end) * (1 + math.cos(math.pi * min(done / length, 1.0))) / 2
