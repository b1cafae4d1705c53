"""Track the progress of a run: steps, epochs, time, and the reasons to end it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from dnntrain.protocols import StepInfo
from dnntrain.utils.epochs import EpochSchedule
from dnntrain.utils.units import Duration


class Progress:
    """Count optimizer steps until the run's length is reached, a callback stops it, or a signal ends it.

    `pause_step` is a step at which the loop ends, because another trainer continues; 0 if none does.
    `total_steps` is 0 if the length is `budget_s` seconds. The time of evaluating and saving counts
    in `elapsed_s`, not in `train_s`.
    """

    def __init__(self, duration: Duration, timetable: EpochSchedule, pause_step: int = 0) -> None:
        self._pause_step = pause_step
        self.timetable = timetable
        self._length = str(duration)
        #: Whether the restored checkpoint is of a run of another length.
        self.has_new_length = False
        self.budget_s = duration.value if duration.unit == "s" else 0.0
        self.total_steps = 0 if self.budget_s else max(1, timetable.count_steps(duration, 0))
        self.step = 0
        self.stop_reason: str | None = None
        self.signal: int | None = None
        self._elapsed_before_s = 0.0
        self._paused_s = 0.0
        self._started_s = time.perf_counter()
        self.session_start_step = 0

    def start(self) -> None:
        """Begin a session: from here its time counts."""
        self._started_s, self.session_start_step = time.perf_counter(), self.step

    def steps(self) -> Iterator[int]:
        """Yield the numbers of the remaining steps, from 0; the loop calls `mark_done` after each."""
        while not self.is_finished:
            yield self.step

    def mark_done(self, step: int) -> int:
        """Count step number `step` as done, before the events that follow it; return the steps done."""
        self.step = step + 1
        return self.step

    @property
    def is_finished(self) -> bool:
        """Return whether no further step remains."""
        return self._is_at_end or self.is_paused

    @property
    def is_paused(self) -> bool:
        """Return whether another trainer continues the run from here."""
        return bool(self._pause_step) and self.step >= self._pause_step and not self._is_at_end

    @property
    def _is_at_end(self) -> bool:
        if self.stop_reason is not None or self.signal is not None:
            return True
        if self.total_steps:
            return self.step >= self.total_steps
        return self.elapsed_s >= self.budget_s

    @property
    def is_complete(self) -> bool:
        """Return whether the run ended as planned or by a callback, not by a signal."""
        return self.signal is None

    def get_step_info(self, step: int) -> StepInfo:
        """Return the moment before step number `step` (from 0), which is after `step` steps."""
        epoch = self.timetable.epoch_at(step)
        if self.total_steps:
            return StepInfo(step, epoch, step / self.total_steps)
        return StepInfo(step, epoch, min(self.elapsed_s / self.budget_s, 1.0))

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
        """`elapsed_s` without the time of evaluation and saving."""
        return self.elapsed_s - self._paused_s

    def exclude_time(self, seconds: float) -> None:
        """Count `seconds` as not spent on training."""
        self._paused_s += seconds

    def restore_elapsed_time(self, elapsed_s: float) -> None:
        """Set the elapsed time after a rollback: the time of the discarded steps still counts."""
        self._elapsed_before_s, self._started_s = elapsed_s, time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "paused_s": self._paused_s,
            "stop_reason": self.stop_reason,
            "length": self._length,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = int(state["step"])
        self._elapsed_before_s, self._paused_s = float(state["elapsed_s"]), float(state["paused_s"])
        self._started_s = time.perf_counter()
        self.stop_reason = state["stop_reason"]
        self.has_new_length = state["length"] != self._length
