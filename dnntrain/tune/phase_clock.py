"""Measure where the time of a step goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class PhaseClock:
    """Seconds by phase. Phases nest, and time counts in the innermost one.

    synchronize  waits for the device, so that its work counts in the phase that asked for it
    is_on        whether phases are measured; waiting for the device would slow other steps down
    """

    synchronize: Callable[[], None] = lambda: None
    is_on: bool = False
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _inner_s: list[float] = field(default_factory=list)

    @contextmanager
    def mark(self, name: str) -> Iterator[None]:
        """Count the time within the context in the phase `name`."""
        if not self.is_on:
            yield
            return
        self.synchronize()
        started = time.perf_counter()
        self._inner_s.append(0.0)
        try:
            yield
        finally:
            self.synchronize()
            took_s = time.perf_counter() - started
            self.seconds[name] += took_s - self._inner_s.pop()
            if self._inner_s:
                self._inner_s[-1] += took_s
