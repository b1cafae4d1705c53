"""The time that a search may take, and whether another attempt fits into it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """Counts the seconds of a search from its construction.

    An attempt takes at least as long as the shortest one so far; if less time is left, none begins.
    `final_share` of the seconds is kept for a last measurement, and at least the time of an attempt.
    """

    def __init__(self, seconds: float, final_share: float = 0.0) -> None:
        self._seconds = seconds
        self._final_share = final_share
        self._shortest_s = 0.0
        self._started = time.monotonic()

    @property
    def left_s(self) -> float:
        """Seconds for further attempts."""
        kept_s = max(self._final_share * self._seconds, self._shortest_s) if self._final_share else 0.0
        return self.final_s - kept_s

    @property
    def final_s(self) -> float:
        """Seconds that are left in all."""
        return self._seconds - (time.monotonic() - self._started)

    @property
    def has_time(self) -> bool:
        """Whether another attempt fits."""
        return self.left_s > self._shortest_s

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Note how long the block takes."""
        started = time.monotonic()
        yield
        took_s = time.monotonic() - started
        self._shortest_s = min(self._shortest_s or took_s, took_s)
