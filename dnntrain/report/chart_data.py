"""Curves, marks and axes of a chart."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from dnntrain.report.format import Point
from dnntrain.report.series import Series

#: Units of the drawing in both directions.
CHART_SIZE = 1000


@dataclass(frozen=True)
class Curve:
    """One line: `pieces` of finite points in the order of x, interrupted at `gaps`.

    A gap is at some of the `not_finite` many values that are not finite. `tone` numbers the color;
    `dashed` distinguishes lines of one tone. A `noisy` curve with many points is drawn as a thin
    line of all points under a thick line of their mean.
    """

    label: str
    pieces: tuple[tuple[Point, ...], ...]
    tone: int
    gaps: tuple[float, ...] = ()
    not_finite: int = 0
    dashed: bool = False
    noisy: bool = False

    @property
    def points(self) -> list[Point]:
        return [point for piece in self.pieces for point in piece]


@dataclass(frozen=True)
class Mark:
    """A vertical line at x, with a short sign on top and its meaning."""

    x: float
    sign: str
    meaning: str


@dataclass(frozen=True)
class Axis:
    """Map values to the drawing: 0 at `low`, `CHART_SIZE` at `high`."""

    low: float
    high: float
    log: bool = False
    ticks: tuple[float, ...] = field(default=())

    def project(self, value: float) -> float:
        """Return the position of `value`, 0 to `CHART_SIZE`."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        distance = (math.log(value) if self.log else value) - low
        return CHART_SIZE * min(max(distance / (high - low), 0.0), 1.0)


def make_curve(
    label: str, series: Series, tone: int, *, by_time: bool = False, dashed: bool = False, noisy: bool = False
) -> Curve:
    """Return a curve through the points of `series`, with gaps at values that are not finite.

    The x axis is the step or the time.
    """
    pieces: list[list[Point]] = [[]]
    gaps: list[float] = []
    for x, value in zip(series.wall_s if by_time else series.step, series.value, strict=True):
        if not math.isfinite(x):
            continue
        if math.isfinite(value):
            pieces[-1].append((x, value))
        else:
            gaps.append(x)
            if pieces[-1]:
                pieces.append([])
    finite_pieces = tuple(tuple(piece) for piece in pieces if piece)
    return Curve(label, finite_pieces, tone, tuple(gaps), series.not_finite, dashed, noisy)
