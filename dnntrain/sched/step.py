"""The learning rate falls by a factor at regular distances."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.config.fields import Annotated, Duration, Range
from dnntrain.errors import ConfigError
from dnntrain.protocols import Context, Parts
from dnntrain.sched.schedule import Schedule, length_in_steps


@dataclass(frozen=True)
class Step(Schedule):
    """factor = gamma ** floor(done / every) (torch's StepLR)."""

    every: Duration = Duration(30, "%")  # distance between two falls: 5000step, 30ep or 30%
    gamma: Annotated[float, Range(above=0, at_most=1)] = 0.1  # factor of each fall

    def build(self, context: Context) -> Parts:
        every = length_in_steps(self.every, context, "sched.every")
        if every <= 0:
            raise ConfigError(f"sched.every={self.every} is no step at all", "make it at least 1step")
        return self.parts(lambda done, length: self.gamma ** (done // every), context)
