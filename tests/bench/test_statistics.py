"""Figures of timings: medians with intervals that hold what they should, ratios pair by pair."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dnntrain.bench.statistics import (
    MIN_VALUES,
    choose_rank,
    compute_median_interval,
    compute_percentiles,
    compute_ratio_interval,
)

#: Distributions of timings, with their medians.
DISTRIBUTIONS: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], float]] = {
    "normal": (lambda random, size: random.normal(10, 1, size), 10.0),
    "skewed": (lambda random, size: random.lognormal(0, 1, size), 1.0),
    "two modes": (lambda random, size: random.normal(0, 1, size) + 8 * random.integers(-1, 2, size), 0.0),
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("num_values", [1, 2, 3, 5, 6, 7, 9, 15, 25])
def test_the_interval_encloses_the_true_median_as_often_as_it_says(name: str, num_values: int) -> None:
    draw, median = DISTRIBUTIONS[name]
    random = np.random.default_rng(num_values)
    trials = 4000
    intervals = [compute_median_interval(draw(random, num_values).tolist()) for _ in range(trials)]
    share = sum(interval.contains(median) for interval in intervals) / trials
    # Four standard deviations of the simulation.
    assert share == pytest.approx(intervals[0].coverage, abs=4 * 0.5 / trials**0.5)


def test_six_values_or_more_give_a_coverage_of_95_percent() -> None:
    coverages = {number: compute_median_interval(list(range(number))).coverage for number in range(1, 200)}
    assert {number for number, coverage in coverages.items() if coverage < 0.95} == set(range(1, MIN_VALUES))
    assert coverages[1] == 0
    assert coverages[3] == 0.75
    assert coverages[7] == pytest.approx(1 - 2 / 2**7)


def test_no_narrower_interval_has_the_coverage() -> None:
    # Ranks of the table in Conover, "Practical nonparametric statistics", for 95 % intervals of the median.
    assert {number: choose_rank(number)[0] for number in (3, 6, 8, 9, 12, 15, 20, 25)} == {
        3: 1,
        6: 1,
        8: 1,
        9: 2,
        12: 3,
        15: 4,
        20: 6,
        25: 8,
    }


def test_many_rounds_have_an_interval_too() -> None:
    found = compute_median_interval([float(number) for number in range(5001)])
    assert found.coverage == pytest.approx(0.95, abs=0.01)
    assert found.low == pytest.approx(2500 - 1.96 * 5001**0.5 / 2, abs=1.5)


def test_ends_are_order_statistics_whatever_the_order() -> None:
    found = compute_median_interval([5.0, 1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0])
    assert (found.median, found.low, found.high) == (5, 2, 8)


def test_few_values_exclude_nothing() -> None:
    assert not compute_median_interval([2.0, 2.1, 2.2, 2.3, 2.4]).excludes(1.0)
    assert compute_median_interval([2.0, 2.1, 2.2, 2.3, 2.4, 2.5]).excludes(1.0)


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
    assert not compute_ratio_interval(first, second).excludes(1)


def test_percentiles_are_those_of_the_sorted_values() -> None:
    found = compute_percentiles(list(range(101)))
    assert found == pytest.approx({"p50": 50, "p95": 95, "p99": 99})
