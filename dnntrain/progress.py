"""Where the run stands: steps, epochs, time, and the reasons to end it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dnntrain.protocols import Moment
from dnntrain.timetable import Timetable
from dnntrain.units import Duration


class Progress:
    """Counts optimizer steps until the run's length is reached, a decision stops it, or a signal asks for its end.

    `total_steps` is 0 where the length is `budget_s` seconds. Time spent evaluating and saving counts in `elapsed_s`, not in `train_s`.
    """

    def __init__(self, duration: Duration, timetable: Timetable) -> None:
        self.timetable = timetable
        self.budget_s = duration.value if duration.unit == "s" else 0.0
        self.total_steps = 0 if self.budget_s else max(1, timetable.steps_of(duration, 0))
        self.step = 0
        self.stop_reason: str | None = None
        self.signal: int | None = None
        self._elapsed_before_s = 0.0
        self._paused_s = 0.0
        self._started_s = time.perf_counter()
        self.started_at_step = 0

    def start(self) -> None:
        """Begins a session: from here its time counts."""
        self._started_s, self.started_at_step = time.perf_counter(), self.step

    def steps(self) -> Iterator[int]:
        """The numbers of the steps to do, from 0; the loop says with `done` when one is."""
        while not self.finished:
            yield self.step

    def done(self, step: int) -> int:
        """Counts step number `step` as done, before the events that follow it; returns how many are done now."""
        self.step = step + 1
        return self.step

    @property
    def finished(self) -> bool:
        """True where no further step is to be done."""
        if self.stop_reason is not None or self.signal is not None:
            return True
        if self.total_steps:
            return self.step >= self.total_steps
        return self.elapsed_s >= self.budget_s

    @property
    def complete(self) -> bool:
        """True where the run ended as planned or decided, not by a signal."""
        return self.signal is None

    def at(self, step: int) -> Moment:
        """The moment before step number `step` (from 0), which is after `step` steps."""
        epoch = self.timetable.epoch_at(step)
        if self.total_steps:
            return Moment(step, epoch, step / self.total_steps)
        return Moment(step, epoch, min(self.elapsed_s / self.budget_s, 1.0))

    @property
    def elapsed_s(self) -> float:
        """Seconds of the whole run, over all of its sessions."""
        return self._elapsed_before_s + time.perf_counter() - self._started_s

    @property
    def session_s(self) -> float:
        """Seconds since this session began to train."""
        return time.perf_counter() - self._started_s

    @property
    def train_s(self) -> float:
        """`elapsed_s` less the time of evaluation and saving."""
        return self.elapsed_s - self._paused_s

    def pause(self, seconds: float) -> None:
        """Counts `seconds` as not spent on training."""
        self._paused_s += seconds

    def keep_time(self, elapsed_s: float) -> None:
        """After a return to an earlier step: `elapsed_s` seconds were spent all the same."""
        self._elapsed_before_s, self._started_s = elapsed_s, time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "paused_s": self._paused_s,
            "stop_reason": self.stop_reason,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = int(state["step"])
        self._elapsed_before_s, self._paused_s = float(state["elapsed_s"]), float(state["paused_s"])
        self._started_s = time.perf_counter()
        self.stop_reason = state["stop_reason"]


@dataclass(frozen=True)
class Event:
    """Something done every so many steps, or, where `every_s` is set, about every so many seconds.

    `next_step(step)` is for what says itself at which step it is due next.
    """

    run: Callable[[int], None]
    every_steps: int = 0
    every_s: float = 0.0
    next_step: Callable[[int], int] | None = None

    def due_at(self, step: int) -> bool:
        """True where the number of the step alone makes it due."""
        if self.next_step is not None:
            return step >= self.next_step(step)
        return self.every_steps > 0 and step % self.every_steps == 0


class Cadence:
    """Which events are due after a step, in the order given. The last step of a run is due for all of them (`last`)."""

    def __init__(self, events: Sequence[Event], last_step: int) -> None:
        self._events = events
        self._last_step = last_step
        self._next_time = {event: time.perf_counter() + event.every_s for event in events if event.every_s}
        self._wake_step = 0
        self._wake_s = min(self._next_time.values(), default=float("inf"))

    def due(self, step: int) -> Sequence[Callable[[int], None]]:
        """The events due once `step` steps are done."""
        if step < self._wake_step and time.perf_counter() < self._wake_s:
            return ()
        return self._collect(step)

    def rewind(self) -> None:
        """The run goes on from an earlier step."""
        self._wake_step = 0

    def _collect(self, step: int) -> list[Callable[[int], None]]:
        now = time.perf_counter()
        due = []
        for event in self._events:
            if step == self._last_step or event.due_at(step):
                due.append(event.run)
            elif event.every_s and now >= self._next_time[event]:
                due.append(event.run)
                self._next_time[event] = now + event.every_s
        self._wake_s = min(self._next_time.values(), default=float("inf"))
        upcoming = [(step // event.every_steps + 1) * event.every_steps for event in self._events if event.every_steps]
        upcoming += [max(event.next_step(step), step + 1) for event in self._events if event.next_step is not None]
        if step < self._last_step:
            upcoming.append(self._last_step)
        self._wake_step = min(upcoming, default=1 << 62)
        return due


def event(run: Callable[[int], None], every: Duration, progress: Progress) -> Event:
    """`run` at the cadence `every`."""
    if every.unit == "s":
        return Event(run, every_s=every.value)
    if every.unit == "%" and progress.budget_s:
        return Event(run, every_s=every.value / 100 * progress.budget_s)
    timetable = progress.timetable
    if every.unit == "ep" and not timetable.is_constant:
        return Event(run, next_step=timetable.multiples(every, progress.total_steps))
    return Event(run, every_steps=max(1, timetable.steps_of(every, progress.total_steps)))
