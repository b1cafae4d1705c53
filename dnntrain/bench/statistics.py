"""Summarize timings: percentiles, medians with bootstrap intervals, ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A median with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high

    def as_json(self) -> list[float]:
        return [self.median, self.low, self.high]


def compute_median_interval(values: Sequence[float]) -> Interval:
    """Return the median of `values` with its 95 % percentile-bootstrap interval.

    Source: Efron, 1979. The result is deterministic.
    """
    samples = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(0).integers(0, len(samples), (_NUM_RESAMPLES, len(samples)))
    low, high = np.percentile(np.median(samples[draws], axis=1), (2.5, 97.5))
    return Interval(float(np.median(samples)), float(low), float(high))


def compute_ratio_interval(values: Sequence[float], base: Sequence[float]) -> Interval:
    """Return the median of `values / base`, pair by pair, with its interval.

    Rounds that ran right after each other share the state of the machine.
    """
    pairs: NDArray[np.float64] = np.asarray(values, dtype=np.float64) / np.asarray(base, dtype=np.float64)
    return compute_median_interval(pairs.tolist())


def compute_percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99 of `values`."""
    quantiles = np.percentile(np.asarray(values, dtype=np.float64), (50, 95, 99))
    return dict(zip(("p50", "p95", "p99"), quantiles.tolist(), strict=True))
