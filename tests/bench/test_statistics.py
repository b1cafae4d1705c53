"""Figures of timings: medians with intervals that hold what they should, ratios pair by pair."""

from __future__ import annotations

import numpy as np
import pytest

from dnntrain.bench.statistics import compute_median_interval, compute_percentiles, compute_ratio_interval


def test_the_interval_holds_the_true_median_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    held = sum(compute_median_interval(random.normal(10, 1, 15).tolist()).contains(10) for _ in range(200))
    assert held >= 0.88 * 200


def test_equal_values_leave_no_doubt() -> None:
    found = compute_median_interval([3.0] * 5)
    assert (found.median, found.low, found.high) == (3, 3, 3)


def test_a_ratio_compares_neighbours_so_that_a_slow_spell_cancels() -> None:
    base = [100.0, 50.0, 100.0, 20.0, 100.0]
    found = compute_ratio_interval([2 * value for value in base], base)
    assert (found.median, found.low, found.high) == (2, 2, 2)


def test_the_same_thing_measured_twice_is_within_the_noise() -> None:
    random = np.random.default_rng(2)
    first, second = random.normal(100, 5, 9).tolist(), random.normal(100, 5, 9).tolist()
    assert compute_ratio_interval(first, second).contains(1)


def test_percentiles_are_those_of_the_sorted_values() -> None:
    found = compute_percentiles(list(range(101)))
    assert found == pytest.approx({"p50": 50, "p95": 95, "p99": 99})
