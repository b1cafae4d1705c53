"""Format numbers for people, choose axis ticks, and reduce curves to fewer points."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dnntrain.protocols import MetricInfo

Point = tuple[float, float]

#: Round numbers of seconds, from ten seconds to a week.
_TIME_STEPS = [10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800]


def thin_points(points: Sequence[Point], max_points: int) -> list[Point]:
    """Return at most `max_points` points in order.

    The first, the last, and the lowest and highest of equal stretches stay, so that peaks remain.
    """
    if len(points) <= max_points or max_points < 4:
        return list(points[:max_points]) if len(points) > max_points else list(points)
    buckets = max_points // 4
    kept_points: list[Point] = []
    for bucket in range(buckets):
        start, end = bucket * len(points) // buckets, (bucket + 1) * len(points) // buckets
        stretch = range(start, end)
        lowest = min(stretch, key=lambda index: points[index][1])
        highest = max(stretch, key=lambda index: points[index][1])
        kept_points += [points[index] for index in sorted({start, lowest, highest, end - 1})]
    return kept_points


def smooth_points(points: Sequence[Point], window: int) -> list[Point]:
    """Return the centered mean over `window` points, shorter at both ends; [n] → [n]."""
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    half = window // 2
    means = []
    for index, (x, _) in enumerate(points):
        reach = min(half, index, len(points) - 1 - index)
        low, high = index - reach, index + reach + 1
        means.append((x, (sums[high] - sums[low]) / (high - low)))
    return means


def compute_ticks(low: float, high: float, count: int = 5, by_time: bool = False) -> list[float]:
    """Return about `count` round numbers from `low` to `high`: 1, 2 or 5 times a power of ten apart.

    With `by_time` they are seconds, for which 15, 30, 60 and so on are round.
    """
    if not high > low:
        return [low]
    rough_step = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough_step))
    steps = (
        _TIME_STEPS if by_time and 10 <= rough_step <= _TIME_STEPS[-1] else [factor * power for factor in (1, 2, 5, 10)]
    )
    step = next(step for step in steps if step >= rough_step * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, min(last, first + 50) + 1)]


def compute_log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten between two positive numbers.

    If that gives too many, only the powers of ten.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 3 else (1,)
    power_step = max(1, (last - first) // 6)
    powers = range(first, last + 1, power_step)
    return [value for power in powers for factor in factors if low <= (value := factor * 10.0**power) <= high]


def format_short(value: float) -> str:
    """Format a number in few characters: `0.0312`, `1.2e-05`, `12.5k`."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    size = abs(value)
    if size >= 1e15 or (size and size < 1e-3):
        return f"{value:.3g}"
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if size >= scale:
            return f"{value / (1e3 if unit == 'k' else scale):.4g}{unit}"
    return f"{value:.4g}"


def format_percent(value: float) -> str:
    """Format `0.9861` as `98.61%`."""
    return f"{100 * value:.2f}%" if math.isfinite(value) else format_short(value)


def format_metric(metric: MetricInfo, value: float) -> str:
    """Format a metric's value for people, with its unit."""
    if metric.is_share:
        return format_percent(value)
    return f"{format_short(value)} {metric.unit}" if metric.unit else format_short(value)
