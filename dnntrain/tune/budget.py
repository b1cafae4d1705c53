"""The time that a search may take, and whether another attempt fits into it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """Counts the seconds of a search from its construction.

    An attempt takes at least as long as the shortest one so far; if less time is left, none begins.
    `final_share` of the seconds is kept for a last measurement, and at least the time of the attempt that it
    repeats.
    """

    def __init__(self, seconds: float, final_share: float = 0.0) -> None:
        self._seconds = seconds
        self._final_share = final_share
        self._shortest_s = 0.0
        self._longest_kept_s = 0.0
        self._last_s = 0.0
        self._started = time.monotonic()

    @property
    def left_s(self) -> float:
        """Seconds for further attempts."""
        if not self._final_share:
            return self.final_s
        return self.final_s - max(self._final_share * self._seconds, self._shortest_s, self._longest_kept_s)

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
        self._last_s = time.monotonic() - started
        self._shortest_s = min(self._shortest_s or self._last_s, self._last_s)

    def expect_final(self) -> None:
        """Note that a last measurement follows, which takes as long as the attempt before this call."""
        self._longest_kept_s = max(self._longest_kept_s, self._last_s)
