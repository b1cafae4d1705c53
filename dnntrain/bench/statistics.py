"""What timings say, and how surely: percentiles, medians with bootstrap intervals, ratios of what was measured side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A median with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def as_json(self) -> list[float]:
        return [self.median, self.low, self.high]


def median_interval(values: Sequence[float]) -> Interval:
    """The median of `values` with its 95 % percentile-bootstrap interval (Efron, 1979); the same for the same values."""
    found = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(0).integers(0, len(found), (_RESAMPLES, len(found)))
    low, high = np.percentile(np.median(found[draws], axis=1), (2.5, 97.5))
    return Interval(float(np.median(found)), float(low), float(high))


def ratio_interval(values: Sequence[float], base: Sequence[float]) -> Interval:
    """The median of `values / base`, pair by pair: rounds that were measured right after each other share the machine's mood."""
    pairs: NDArray[np.float64] = np.asarray(values, dtype=np.float64) / np.asarray(base, dtype=np.float64)
    return median_interval(pairs.tolist())


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 of `values`."""
    found = np.percentile(np.asarray(values, dtype=np.float64), (50, 95, 99))
    return dict(zip(("p50", "p95", "p99"), found.tolist(), strict=True))
