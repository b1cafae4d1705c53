"""A straight line from the base learning rate down to `end`."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.config.fields import Probability
from dnntrain.protocols import Context, Parts
from dnntrain.sched.schedule import Schedule


@dataclass(frozen=True)
class Linear(Schedule):
    """factor = 1 + (end - 1) * done / length (torch's LinearLR with start_factor 1)."""

    end: Probability = 0.0  # factor reached at the end of the run

    def build(self, context: Context) -> Parts:
        return self.parts(lambda done, length: linear(done, length, self.end), context)


def linear(done: float, length: float, end: float) -> float:
    """The factor after `done` of `length` steps."""
    return 1 + (end - 1) * min(done / length, 1.0)
