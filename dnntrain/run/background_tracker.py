"""Run a tracker in a thread of its own, so that it never slows or ends the training."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from queue import Empty, Full, Queue
from typing import Any

from dnntrain.protocols import Tracker
from dnntrain.utils.messages import warn_user

#: Rows that are kept for a tracker that does not keep up.
_MAX_ROWS = 20_000


class BackgroundTracker:
    """Passes every call on to `tracker`, in order, in a thread.

    An error at the start within `max_wait_s` is raised, as it names a wrong setting. Later errors,
    and a tracker that does not answer, are reported once, and the training continues. The end waits
    for the last rows as long.
    """

    def __init__(self, tracker: Tracker, max_wait_s: float) -> None:
        self._tracker = tracker
        self._max_wait_s = max_wait_s
        self._calls: Queue[Callable[[], None] | None] = Queue(_MAX_ROWS)
        self._thread = threading.Thread(target=self._run_calls, name="tracker", daemon=True)
        self._name = type(tracker).__name__.removesuffix("Tracker")
        self._start_error: Exception | None = None
        self._has_started = threading.Event()
        self._has_failed = self._is_late = False
        self._num_dropped = 0

    def start(self, run_dir: str, config: Mapping[str, Any]) -> None:
        """Start the tracker. Raises its error if it fails soon."""

        def start_tracker() -> None:
            try:
                self._tracker.start(run_dir, config)
            except Exception as error:
                self._start_error = error
                raise
            finally:
                self._has_started.set()

        self._calls.put(start_tracker)
        self._thread.start()
        if not self._has_started.wait(self._max_wait_s):
            self._is_late = True
            warn_user(f"{self._name} did not answer for {self._max_wait_s:g} s; the training starts without waiting")
        elif self._start_error is not None:
            raise self._start_error

    def log_row(self, row: Mapping[str, Any]) -> None:
        """Queue a row; the oldest are dropped if the tracker does not keep up."""
        values = dict(row)
        self._put(lambda: self._tracker.log_row(values))

    def close(self, result: Mapping[str, Any]) -> None:
        """Send the rest, within the time that the tracker may take."""
        if not self._thread.is_alive():
            return
        values = dict(result)
        self._put(lambda: self._tracker.close(values))
        self._put(None)
        self._thread.join(self._max_wait_s)
        if self._thread.is_alive():
            warn_user(f"{self._name} did not take all rows within {self._max_wait_s:g} s; metrics.jsonl has them all")

    def _put(self, call: Callable[[], None] | None) -> None:
        while not self._has_failed:
            try:
                self._calls.put_nowait(call)
                return
            except Full:
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        try:
            self._calls.get_nowait()
        except Empty:
            return
        self._num_dropped += 1
        if self._num_dropped == 1:
            warn_user(f"{self._name} does not keep up, and loses rows; metrics.jsonl has them all")

    def _run_calls(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:
                if self._start_error is not None and not self._is_late:
                    return
                self._has_failed = True
                warn_user(f"{self._name} failed, and the training continues without it: {error}")
                return
