"""Numbers for people, axes for numbers, and fewer points for the eye."""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[float, float]

#: Round numbers of seconds, from ten seconds to a week.
_TIME_STEPS = [10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800]


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` points, in order: first, last, lowest and highest of equal stretches, so that peaks remain."""
    if len(points) <= most or most < 4:
        return list(points[:most]) if len(points) > most else list(points)
    buckets = most // 4
    kept: list[Point] = []
    for bucket in range(buckets):
        start, end = bucket * len(points) // buckets, (bucket + 1) * len(points) // buckets
        stretch = range(start, end)
        lowest = min(stretch, key=lambda index: points[index][1])
        highest = max(stretch, key=lambda index: points[index][1])
        kept += [points[index] for index in sorted({start, lowest, highest, end - 1})]
    return kept


def smoothed(points: Sequence[Point], window: int) -> list[Point]:
    """The centred mean over `window` points, shorter at both ends; [n] → [n]."""
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


def ticks(low: float, high: float, count: int = 5, by_time: bool = False) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them: 1, 2 or 5 times a power of ten apart.

    `by_time` takes them as seconds, of which 15, 30, 60 and so on are round.
    """
    if not high > low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    steps = _TIME_STEPS if by_time and 10 <= rough <= _TIME_STEPS[-1] else [factor * power for factor in (1, 2, 5, 10)]
    step = next(step for step in steps if step >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, min(last, first + 50) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two positive numbers; powers of ten only where that were many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 3 else (1,)
    every = max(1, (last - first) // 6)
    powers = range(first, last + 1, every)
    return [value for power in powers for factor in factors if low <= (value := factor * 10.0**power) <= high]


def short(value: float) -> str:
    """A number in few characters: `0.0312`, `1.2e-05`, `12.5k`."""
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


def percent(value: float) -> str:
    """`0.9861` → `98.61%`."""
    return f"{100 * value:.2f}%" if math.isfinite(value) else short(value)


def is_share(name: str) -> bool:
    """True for metrics that are fractions and shown in percent."""
    return name.startswith(("accuracy", "top"))


def metric_text(name: str, value: float) -> str:
    """A metric's value for people."""
    return percent(value) if is_share(name) else short(value)
