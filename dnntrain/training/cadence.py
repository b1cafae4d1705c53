"""Events between steps, and the steps at which each is due."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dnntrain.training.progress import Progress
from dnntrain.utils.units import Duration


@dataclass(frozen=True)
class Event:
    """An event every so many steps or, if `every_s` is set, about every so many seconds.

    `next_step(step)` is for an event that chooses the step at which it is due next. After each of the first
    `first_steps` steps it is due too.
    """

    run: Callable[[int], None]
    every_steps: int = 0
    every_s: float = 0.0
    next_step: Callable[[int], int] | None = None
    first_steps: int = 0

    def is_due_at(self, step: int) -> bool:
        """Return whether the number of the step alone makes it due."""
        if step <= self.first_steps:
            return True
        if self.next_step is not None:
            return step >= self.next_step(step)
        return self.every_steps > 0 and step % self.every_steps == 0


class Cadence:
    """Find the events that are due after a step, in the order given.

    All events are due after the last step of a run, `last_step`.
    """

    def __init__(self, events: Sequence[Event], last_step: int) -> None:
        self._events = events
        self._last_step = last_step
        self._next_time = {event: time.perf_counter() + event.every_s for event in events if event.every_s}
        self._wake_step = 0
        self._wake_s = min(self._next_time.values(), default=float("inf"))

    def get_due(self, step: int) -> Sequence[Callable[[int], None]]:
        """Return the events that are due after `step` steps."""
        if step < self._wake_step and time.perf_counter() < self._wake_s:
            return ()
        return self._collect_due(step)

    def with_first_steps(self, run: Callable[[int], None], first_steps: int) -> Cadence:
        """Return the cadence at which the event `run` is due after each of the first steps, too."""
        events = [replace(event, first_steps=first_steps) if event.run == run else event for event in self._events]
        return Cadence(events, self._last_step)

    def rewind(self) -> None:
        """Start again from an earlier step."""
        self._wake_step = 0

    def _collect_due(self, step: int) -> list[Callable[[int], None]]:
        now = time.perf_counter()
        due = []
        for event in self._events:
            if step == self._last_step or event.is_due_at(step):
                due.append(event.run)
            elif event.every_s and now >= self._next_time[event]:
                due.append(event.run)
                self._next_time[event] = now + event.every_s
        self._wake_s = min(self._next_time.values(), default=float("inf"))
        upcoming = [(step // event.every_steps + 1) * event.every_steps for event in self._events if event.every_steps]
        upcoming += [max(event.next_step(step), step + 1) for event in self._events if event.next_step is not None]
        upcoming += [step + 1 for event in self._events if step < event.first_steps]
        if step < self._last_step:
            upcoming.append(self._last_step)
        self._wake_step = min(upcoming, default=1 << 62)
        return due


def make_event(run: Callable[[int], None], every: Duration, progress: Progress) -> Event:
    """Return an event that calls `run` at the cadence `every`."""
    if every.unit == "s":
        return Event(run, every_s=every.value)
    if every.unit == "%" and progress.budget_s:
        return Event(run, every_s=every.value / 100 * progress.budget_s)
    timetable = progress.timetable
    if every.unit == "ep" and not timetable.is_constant:
        return Event(run, next_step=timetable.make_next_multiple(every, progress.total_steps))
    return Event(run, every_steps=max(1, timetable.count_steps(every, progress.total_steps)))
