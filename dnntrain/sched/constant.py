"""The same learning rate throughout."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.protocols import Context, Parts
from dnntrain.sched.schedule import Schedule


@dataclass(frozen=True)
class Constant(Schedule):
    """factor = 1 after the warm-up."""

    def build(self, context: Context) -> Parts:
        return self.parts(lambda done, length: 1.0, context)
