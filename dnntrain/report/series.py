"""Store one number over a run of any length, in bounded memory."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field

#: (step, wall_s, value)
Reading = tuple[float, float, float]

_MAX_POINTS = 20_000


@dataclass
class Series:
    """One number over a run: `step`, `wall_s` and `value` are equally long.

    Values may be NaN or infinite. A long series is thinned evenly as it grows: of a stretch of
    neighbors the lowest, the highest and one that is not finite stay, so that extremes are kept and
    a run of any length fits in memory. `not_finite` counts all values that are not finite, kept or
    not.
    """

    step: array[float] = field(default_factory=lambda: array("d"))
    wall_s: array[float] = field(default_factory=lambda: array("d"))
    value: array[float] = field(default_factory=lambda: array("d"))
    not_finite: int = 0
    _stretch: int = 1
    _pending: list[Reading] = field(default_factory=list)

    def add(self, step: float, wall_s: float, value: float) -> None:
        """Add a point; call `flush` after the last one."""
        if not math.isfinite(value):
            self.not_finite += 1
        self._pending.append((step, wall_s, value))
        if len(self._pending) >= self._stretch:
            self.flush()

    def flush(self) -> None:
        """Store the pending points."""
        for step, wall_s, value in _select_extremes(self._pending):
            self.step.append(step)
            self.wall_s.append(wall_s)
            self.value.append(value)
        self._pending.clear()
        if len(self.value) >= _MAX_POINTS:
            self._thin()

    def __len__(self) -> int:
        return len(self.value)

    def get_finite_points(self) -> list[tuple[float, float]]:
        """Return the (step, value) pairs whose value is finite."""
        return [(step, value) for step, value in zip(self.step, self.value, strict=True) if math.isfinite(value)]

    def _thin(self) -> None:
        """Halve the points, and double the length of later stretches to match."""
        readings = list(zip(self.step, self.wall_s, self.value, strict=True))
        kept_readings = [
            reading for first in range(0, len(readings), 4) for reading in _select_extremes(readings[first : first + 4])
        ]
        self.step, self.wall_s, self.value = (array("d", column) for column in zip(*kept_readings, strict=True))
        self._stretch = max(4, 2 * self._stretch)


def _select_extremes(readings: list[Reading]) -> list[Reading]:
    """Return the lowest, the highest and the first value that is not finite, in order."""
    if len(readings) <= 2:
        return readings
    finite = [index for index, reading in enumerate(readings) if math.isfinite(reading[2])]
    kept_indices = (
        {min(finite, key=lambda index: readings[index][2]), max(finite, key=lambda index: readings[index][2])}
        if finite
        else set()
    )
    if len(finite) < len(readings):
        kept_indices.add(next(index for index in range(len(readings)) if index not in set(finite)))
    return [readings[index] for index in sorted(kept_indices)]
