"""Summarize timings: percentiles, medians with intervals, ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

#: Least coverage of an interval that a comparison relies on.
CONFIDENCE = 0.95

#: With fewer values, even the smallest and the largest enclose the median less often than `CONFIDENCE`.
MIN_VALUES = 6


@dataclass(frozen=True)
class Interval:
    """A median with an interval of order statistics.

    coverage  probability that the interval encloses the true median: at least 0.95 with 6 values or
              more, 0.9375 with 5, 0.75 with 3, 0 with one
    """

    median: float
    low: float
    high: float
    coverage: float

    @property
    def is_conclusive(self) -> bool:
        """Return whether the interval encloses the true median in 95 % of cases or more."""
        return self.coverage >= CONFIDENCE

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high

    def excludes(self, value: float) -> bool:
        """Return whether the true median differs from `value`, at a confidence of 95 % or more."""
        return self.is_conclusive and not self.contains(value)

    def as_json(self) -> list[float]:
        return [self.median, self.low, self.high]


def compute_median_interval(values: Sequence[float]) -> Interval:
    """Return the median of n `values` with the narrowest interval of at least 95 % coverage.

    The interval is from the k-th smallest to the k-th largest value, with the largest k for which
    1 - 2 P(Binomial(n, 1/2) < k) >= 0.95. That is its coverage for any continuous distribution of
    independent values. With fewer than 6 values it is from the smallest to the largest, and its
    coverage is lower.
    Source: David & Nagaraja, "Order Statistics", 2003, section 7.1.
    """
    samples = sorted(values)
    rank, coverage = choose_rank(len(samples))
    return Interval(float(np.median(samples)), float(samples[rank - 1]), float(samples[-rank]), coverage)


@cache
def choose_rank(num_values: int) -> tuple[int, float]:
    """Return the largest rank k from 1 whose interval covers the median in 95 %, and its coverage."""
    total: int = 2**num_values
    rank = number_below = combinations = 1
    while True:
        combinations = combinations * (num_values - rank + 1) // rank
        if 2 * (number_below + combinations) / total > 1 - CONFIDENCE:
            return rank, max(0, total - 2 * number_below) / total
        number_below += combinations
        rank += 1


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
