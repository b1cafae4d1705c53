"""Map the steps of a run to epochs, and epochs to batch sizes."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import NamedTuple

from dnntrain.utils.units import Duration

#: The last resort if no other batch size helps.
LEAVE_OUT_HINT = "leave batch_size out of sched.applies_to"


class _Segment(NamedTuple):
    """Consecutive steps with one batch size.

    epoch  the first epoch
    step   the step at which it would have begun with this size
    size   examples per step
    steps  steps per epoch
    first  the first step with this size: later than `step` if the size changed within the epoch
    """

    epoch: int
    step: int
    size: int
    steps: int
    first: int


@dataclass(frozen=True)
class EpochSchedule:
    """Cuts a run into epochs and each epoch into steps.

    A batch size may change at the start of an epoch.

    examples  number per epoch
    changes   (epoch, examples per step from that epoch on): epoch 0 first, epochs rising; the last holds to the end
    drop_last whether an epoch leaves out the examples that do not fill a step
    taken     for each change, examples of its epoch that were taken before it, a multiple of both sizes; empty: 0
    num_past  number of changes whose sizes no further step has, in a resumed run

    Epoch e has ceil(examples / size) steps, of which the last has the remaining examples; with
    `drop_last` it has floor(examples / size). Steps are counted from 0 over the whole run.
    """

    examples: int
    changes: tuple[tuple[int, int], ...]
    drop_last: bool = False
    taken: tuple[int, ...] = ()
    num_past: int = 0

    @classmethod
    def constant(cls, examples: int, size: int, drop_last: bool = False) -> EpochSchedule:
        """Return the schedule of one batch size for the whole run."""
        return cls(examples, ((0, size),), drop_last)

    def count_steps_per_epoch(self, size: int) -> int:
        """Return the steps of an epoch with `size` examples per step."""
        return self.examples // size if self.drop_last else -(-self.examples // size)

    def count_last_examples(self, size: int) -> int:
        """Return the examples of a short last step of an epoch, or 0 if it has none."""
        return 0 if self.drop_last else self.examples % size

    @cached_property
    def _segments(self) -> tuple[_Segment, ...]:
        segments: list[_Segment] = []
        for number, (epoch, size) in enumerate(self.changes):
            previous = segments[-1] if segments else _Segment(0, 0, size, 0, 0)
            taken = self.taken[number] if self.taken else 0
            first = previous.step + (epoch - previous.epoch) * previous.steps + taken // previous.size
            segments.append(_Segment(epoch, first - taken // size, size, self.count_steps_per_epoch(size), first))
        return tuple(segments)

    @cached_property
    def is_constant(self) -> bool:
        """Whether all epochs have the same batch size."""
        return len(self.changes) == 1

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The distinct batch sizes of the steps to come, in ascending order."""
        return tuple(sorted({size for _, size in self.changes[self.num_past :]}))

    def batch_size_at(self, epoch: int) -> int:
        """Return the examples per step of `epoch`, over all ranks."""
        return self._find_by_epoch(epoch).size

    def steps_in_epoch(self, epoch: int) -> int:
        """Return the number of steps of `epoch`."""
        return self._find_by_epoch(epoch).steps

    def locate_step(self, step: int) -> tuple[int, int]:
        """Return (epoch, step within the epoch) of a step of the run."""
        segment = self._find_by_step(step)
        epochs, batch = divmod(step - segment.step, segment.steps)
        return segment.epoch + epochs, batch

    def epoch_at(self, step: int) -> float:
        """Return the epochs completed after `step` steps."""
        segment = self._find_by_step(step)
        return segment.epoch + (step - segment.step) / segment.steps

    def step_at(self, epochs: float) -> int:
        """Return the number of steps of the first `epochs` epochs, rounded to the nearest."""
        segment = self._find_by_epoch(int(epochs))
        return segment.step + round((epochs - segment.epoch) * segment.steps)

    def count_steps(self, length: Duration, total_steps: int) -> int:
        """Return `length` in steps, from the start of a run of `total_steps`.

        Raises ValueError for a time.
        """
        return self.step_at(length.value) if length.unit == "ep" else length.to_steps(0, total_steps)

    def make_next_multiple(self, every: Duration, total_steps: int) -> Callable[[int], int]:
        """Return a function that maps a step to the next multiple of `every`.

        That is the first step, from the given one and from 1 on, after which a multiple of `every`
        is complete.
        """
        if every.unit == "ep" and not self.is_constant:
            return partial(self._find_next_multiple, every.value)
        distance = max(1, self.count_steps(every, total_steps))
        return lambda step: max(1, -(-step // distance)) * distance

    def _find_next_multiple(self, epochs: float, step: int) -> int:
        step = max(step, 1)
        number = max(1, math.floor(self.epoch_at(step) / epochs) - 1)
        while self.step_at(number * epochs) < step:
            number += 1
        return self.step_at(number * epochs)

    def _find_by_epoch(self, epoch: int) -> _Segment:
        segments = self._segments
        return (
            segments[0]
            if self.is_constant
            else segments[bisect_right(segments, epoch, key=lambda segment: segment.epoch) - 1]
        )

    def _find_by_step(self, step: int) -> _Segment:
        segments = self._segments
        return (
            segments[0]
            if self.is_constant
            else segments[bisect_right(segments, step, key=lambda segment: segment.first) - 1]
        )

    def is_equal_until(self, other: EpochSchedule, steps: int) -> bool:
        """Return whether both schedules cut the first `steps` steps alike."""
        return self._cut_at(steps) == other._cut_at(steps)

    def find_size_at(self, step: int) -> int:
        """Return the examples of step number `step`, unless it is the short last one of an epoch."""
        return self._find_by_step(step).size

    def continue_with(self, size: int, step: int) -> EpochSchedule:
        """Return the schedule with this one's batches up to `step`, and `size` examples per step from there on.

        Raises ValueError with the examples taken of the epoch if they are not a multiple of `size`.
        """
        if step == 0:
            return EpochSchedule.constant(self.examples, size, self.drop_last)
        count = max(1, sum(segment.first < step for segment in self._segments))
        taken_before = self.taken[:count] if any(self.taken[:count]) else ()
        past = replace(self, changes=self.changes[:count], taken=taken_before, num_past=count - 1)
        last = past._segments[-1]
        if last.size == size:
            return past
        epoch, batch = past.locate_step(step)
        taken = batch * last.size
        if taken % size:
            raise ValueError(taken)
        all_taken = (*(past.taken or (0,) * count), taken)
        return replace(
            past,
            changes=(*past.changes, (epoch, size)),
            taken=all_taken if any(all_taken) else (),
            num_past=count,
        )

    def _cut_at(self, steps: int) -> tuple[int, bool, tuple[tuple[int, int, int], ...]]:
        changes = tuple(
            (segment.epoch, segment.size, segment.first)
            for segment in self._segments
            if segment.first < steps or not segment.first
        )
        has_short_step = any(
            self.examples % segment.size and segment.step + self.examples // segment.size < steps
            for segment in self._segments
        )
        return self.examples, self.drop_last and has_short_step, changes


@dataclass(frozen=True)
class BatchSizeSchedule:
    """The epoch schedule of a run and the range of its factors on train.batch_size.

    Both factors are 1 if the batch size is constant.
    """

    timetable: EpochSchedule
    batch_size: int
    min_factor: float = 1.0
    max_factor: float = 1.0

    @property
    def smallest(self) -> int:
        """Examples per step when the batch is smallest."""
        return self.timetable.sizes[0]

    @property
    def largest(self) -> int:
        """Examples per step when the batch is largest."""
        return self.timetable.sizes[-1]

    @property
    def description(self) -> str:
        """The smallest batch, for messages."""
        if self.smallest == self.batch_size:
            return f"train.batch_size={self.batch_size}"
        return (
            f"a batch of {self.smallest} (train.batch_size={self.batch_size} as sched.applies_to=batch_size makes it)"
        )

    def suggest_at_least(self, examples: int) -> str:
        """Return a hint for batches of `examples` or more.

        No suggested batch is larger than an epoch.
        """
        if self.min_factor == self.max_factor == 1:
            return f"use train.batch_size={examples} or more"
        needed = math.ceil(examples / self.min_factor) if self.min_factor else math.inf
        fits = needed * self.max_factor <= self.timetable.examples
        if fits:
            return f"use train.batch_size={needed} or more, or {LEAVE_OUT_HINT}"
        return (
            LEAVE_OUT_HINT
            if self.batch_size >= examples
            else f"{LEAVE_OUT_HINT} and use train.batch_size={examples} or more"
        )
