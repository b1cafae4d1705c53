"""When the epochs of a run begin, and how many examples a step of each has."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

from dnntrain.utils.units import Duration

#: The way out where no other batch size helps.
LEFT_OUT = "leave batch_size out of sched.param"


class _Part(NamedTuple):
    """Epochs of one batch size: the first of them, the step that it begins with, examples of a step, steps of an epoch."""

    epoch: int
    step: int
    size: int
    steps: int


@dataclass(frozen=True)
class Timetable:
    """Cuts a run into epochs, and these into steps. A batch size may change where an epoch begins.

    examples  of an epoch
    changes   (epoch, examples of a step from that epoch on), the first for epoch 0, epochs rising; the last holds for all that follow

    Epoch e has ceil(examples / size) steps, the last one with what is left. Steps are counted from 0 over the whole run.
    """

    examples: int
    changes: tuple[tuple[int, int], ...]

    @classmethod
    def constant(cls, examples: int, size: int) -> Timetable:
        """One batch size throughout."""
        return cls(examples, ((0, size),))

    @cached_property
    def _parts(self) -> tuple[_Part, ...]:
        parts: list[_Part] = []
        for epoch, size in self.changes:
            before = parts[-1] if parts else _Part(0, 0, size, 0)
            step = before.step + (epoch - before.epoch) * before.steps
            parts.append(_Part(epoch, step, size, -(-self.examples // size)))
        return tuple(parts)

    @cached_property
    def is_constant(self) -> bool:
        """True where all epochs have steps of one size."""
        return len(self.changes) == 1

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes, each once, rising."""
        return tuple(sorted({size for _, size in self.changes}))

    def size(self, epoch: int) -> int:
        """Examples of a step of `epoch`, over all ranks."""
        return self._of_epoch(epoch).size

    def steps(self, epoch: int) -> int:
        """Steps of `epoch`."""
        return self._of_epoch(epoch).steps

    def place(self, step: int) -> tuple[int, int]:
        """(epoch, number in it) of a step."""
        part = self._of_step(step)
        epochs, batch = divmod(step - part.step, part.steps)
        return part.epoch + epochs, batch

    def epoch_at(self, step: int) -> float:
        """Epochs that are done after `step` steps."""
        part = self._of_step(step)
        return part.epoch + (step - part.step) / part.steps

    def step_at(self, epochs: float) -> int:
        """Steps of the first `epochs` epochs, to the nearest."""
        part = self._of_epoch(int(epochs))
        return part.step + round((epochs - part.epoch) * part.steps)

    def steps_of(self, length: Duration, total_steps: int) -> int:
        """`length` in steps, counted from the start of a run of `total_steps`. Raises ValueError for a time."""
        return self.step_at(length.value) if length.unit == "ep" else length.steps(0, total_steps)

    def multiples(self, every: Duration, total_steps: int) -> Callable[[int], int]:
        """step → the first number of steps from it on, and from 1, after which a multiple of `every` is done."""
        if every.unit == "ep" and not self.is_constant:
            return partial(self._multiple, every.value)
        distance = max(1, self.steps_of(every, total_steps))
        return lambda step: max(1, -(-step // distance)) * distance

    def _multiple(self, epochs: float, step: int) -> int:
        step = max(step, 1)
        number = max(1, math.floor(self.epoch_at(step) / epochs) - 1)
        while self.step_at(number * epochs) < step:
            number += 1
        return self.step_at(number * epochs)

    def _of_epoch(self, epoch: int) -> _Part:
        parts = self._parts
        return parts[0] if self.is_constant else parts[bisect_right(parts, epoch, key=lambda part: part.epoch) - 1]

    def _of_step(self, step: int) -> _Part:
        parts = self._parts
        return parts[0] if self.is_constant else parts[bisect_right(parts, step, key=lambda part: part.step) - 1]

    def agrees(self, other: Timetable, steps: int) -> bool:
        """True where both cut the first `steps` steps alike."""
        return self._until(steps) == other._until(steps)

    def _until(self, steps: int) -> tuple[int, tuple[tuple[int, int], ...]]:
        return self.examples, tuple((part.epoch, part.size) for part in self._parts if part.step < steps)


@dataclass(frozen=True)
class BatchSizes:
    """The timetable of a run, and the smallest and largest factor on train.batch_size in it, both 1 where nothing is scheduled."""

    timetable: Timetable
    batch_size: int
    lowest: float = 1.0
    highest: float = 1.0

    @property
    def smallest(self) -> int:
        """Examples of a step where the batch is smallest."""
        return self.timetable.sizes[0]

    @property
    def largest(self) -> int:
        """Examples of a step where the batch is largest."""
        return self.timetable.sizes[-1]

    @property
    def stated(self) -> str:
        """The smallest batch, as messages name it."""
        if self.smallest == self.batch_size:
            return f"train.batch_size={self.batch_size}"
        return f"a batch of {self.smallest} (train.batch_size={self.batch_size} as sched.param=batch_size makes it)"

    def at_least(self, examples: int) -> str:
        """What to use so that no batch is smaller than `examples`, nor larger than an epoch."""
        if self.lowest == self.highest == 1:
            return f"use train.batch_size={examples} or more"
        needed = math.ceil(examples / self.lowest) if self.lowest else math.inf
        fits = needed * self.highest <= self.timetable.examples
        if fits:
            return f"use train.batch_size={needed} or more, or {LEFT_OUT}"
        return LEFT_OUT if self.batch_size >= examples else f"{LEFT_OUT} and use train.batch_size={examples} or more"
