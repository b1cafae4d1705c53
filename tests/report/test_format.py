"""Numbers for people, axes for numbers, fewer points for the eye."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnntrain.protocols import LOSS, MetricInfo
from dnntrain.report.format import (
    compute_log_ticks,
    compute_ticks,
    format_metric,
    format_short,
    smooth_points,
    thin_points,
)

FINITE = st.floats(-1e12, 1e12)


@given(st.lists(FINITE, max_size=3000), st.integers(4, 500))
def test_thinned_keeps_ends_and_extremes(values: list[float], most: int) -> None:
    points = [(float(x), value) for x, value in enumerate(values)]
    kept = thin_points(points, most)
    assert len(kept) <= max(most, 4)
    assert kept == sorted(set(kept))
    if points:
        assert (kept[0], kept[-1]) == (points[0], points[-1])
        assert max(value for _, value in kept) == max(values)
        assert min(value for _, value in kept) == min(values)


@given(FINITE, FINITE, st.booleans())
def test_ticks_lie_within_and_are_few(first: float, second: float, by_time: bool) -> None:
    low, high = min(first, second), max(first, second)
    if high - low < 1e-6 * max(abs(low), abs(high), 1e-12):
        return
    found = compute_ticks(low, high, 5, by_time)
    room = 1e-6 * (high - low)
    assert all(low - room <= tick <= high + room for tick in found)
    assert 1 <= len(found) <= 12


def test_ticks_are_round() -> None:
    assert compute_ticks(0.0, 1.0) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert compute_ticks(0.0, 100.0, by_time=True) == [0, 30, 60, 90]
    assert compute_log_ticks(0.02, 2.3) == pytest.approx([0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0])
    assert compute_log_ticks(1e-9, 1e9) == pytest.approx([1e-9, 1e-6, 1e-3, 1e0, 1e3, 1e6, 1e9])


def test_smoothed_keeps_a_straight_line() -> None:
    points = [(float(x), 2.0 * x) for x in range(50)]
    assert [value for _, value in smooth_points(points, 9)] == pytest.approx([value for _, value in points])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.03125, "0.03125"),
        (1.2e-5, "1.2e-05"),
        (9999.0, "9999"),
        (12_500.0, "12.5k"),
        (2.5e6, "2.5M"),
        (math.inf, "∞"),
        (math.nan, "–"),
        (1e300, "1e+300"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert format_short(value) == text


def test_shares_are_percents_and_units_follow_the_number() -> None:
    infos = MetricInfo("accuracy", unit="%"), LOSS, MetricInfo("error", unit="mm")
    assert [format_metric(info, 0.5) for info in infos] == ["50.00%", "0.5", "0.5 mm"]
