"""Line charts as inline SVG that needs no script.

The drawing is stretched to the width of the page while its lines keep their thickness; the numbers of the axes are
HTML beside it, and so stay legible on a telephone as on paper. Values show where the pointer rests, by `<title>`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from dnntrain.report.format import Point, is_share, log_ticks, metric_text, short, smoothed, thinned, ticks
from dnntrain.report.html import escaped
from dnntrain.report.series import Series
from dnntrain.utils.units import format_seconds

#: Units of the drawing in both directions.
_SIZE = 1000
_MOST_POINTS = 400
_MOST_STRIPS = 60
#: Positive values that span more than this factor are drawn on a logarithmic axis.
_LOG_SPAN = 40


@dataclass(frozen=True)
class Curve:
    """One line: `pieces` of finite points in the order of x, interrupted at `gaps`, where some of the
    `not_finite` many values stood that are none.

    `tone` numbers the colour; `dashed` tells lines of one tone apart. A `noisy` curve with many points is drawn as
    a thin line of all beneath a firm one of their mean.
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
    """Maps values to the drawing: 0 at `low`, `_SIZE` at `high`."""

    low: float
    high: float
    log: bool = False
    ticks: tuple[float, ...] = field(default=())

    def at(self, value: float) -> float:
        """Where `value` stands, 0 to `_SIZE`."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        place = (math.log(value) if self.log else value) - low
        return _SIZE * min(max(place / (high - low), 0.0), 1.0)


def curve(
    label: str, series: Series, tone: int, *, by_time: bool = False, dashed: bool = False, noisy: bool = False
) -> Curve:
    """A curve through the points of `series`, by step or by time, with gaps where a value is not finite."""
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
    kept = tuple(tuple(piece) for piece in pieces if piece)
    return Curve(label, kept, tone, tuple(gaps), series.not_finite, dashed, noisy)


def chart(
    title: str,
    curves: Sequence[Curve],
    *,
    metric: str = "",
    x_name: str = "step",
    x_text: Callable[[float], str] = short,
    marks: Sequence[Mark] = (),
    most_points: int = _MOST_POINTS,
    zero: bool = False,
) -> str:
    """A figure of `curves`; empty where there is nothing to draw.

    `metric` says how values are written; `zero` has their axis begin at 0, so that heights compare.
    """
    curves = [item for item in curves if item.pieces or item.gaps]
    points = [point for item in curves for point in item.points]
    gaps = [x for item in curves for x in item.gaps]
    if not points and not gaps:
        return ""
    x_axis = _x_axis([x for x, _ in points] + gaps + [mark.x for mark in marks], by_time=x_text is format_seconds)
    y_axis = _y_axis([y for _, y in points] + ([0.0] if zero else []), metric)

    def text(value: float) -> str:
        return metric_text(metric, value)

    drawing = [
        *(f'<path class="grid" d="M0 {_SIZE - y_axis.at(tick):.0f}H{_SIZE}"/>' for tick in y_axis.ticks),
        *(f'<path class="gap" d="M{x_axis.at(x):.0f} {_SIZE}V{_SIZE - 30}"/>' for x in _spread(gaps, 60)),
        *(_drawn(item, x_axis, y_axis, most_points) for item in curves),
        *(f'<path class="mark" d="M{x_axis.at(mark.x):.0f} 0V{_SIZE}"/>' for mark in marks),
        *_strips(curves, x_axis, y_axis, x_name, x_text, text),
    ]
    signs = "".join(
        f'<span class="sign" style="left:{x_axis.at(mark.x) / 10:.1f}%" title="{escaped(mark.meaning)}">'
        f"{escaped(mark.sign)}</span>"
        for mark in marks
    )
    y_labels = _labels(y_axis, "bottom", _tick_text(metric, y_axis))
    told = f"{title} by {x_name}: {'; '.join(_told(item, text) for item in curves)}"
    return (
        f'<figure class="chart"><figcaption><h3>{escaped(title)}</h3>{_legend(curves, text)}</figcaption>'
        f'<div class="plot"><div class="ys" aria-hidden="true">{y_labels}</div>'
        f'<div class="field"><svg viewBox="0 0 {_SIZE} {_SIZE}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escaped(told, 900)}">{"".join(drawing)}</svg>{signs}</div>'
        f'<div class="xs" aria-hidden="true">{_labels(x_axis, "left", x_text)}<b>{escaped(x_name)}</b></div></div>'
        f"{_gap_note(sum(item.not_finite for item in curves), gaps, x_name, x_text)}</figure>"
    )


def _x_axis(xs: Sequence[float], by_time: bool) -> Axis:
    low, high = min(xs), max(xs)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 1, high + 1
    # The start of a run belongs to its curves where they begin near it.
    if 0 < low < 0.15 * high:
        low = 0.0
    return Axis(low, high, ticks=tuple(ticks(low, high, 6, by_time)))


def _y_axis(values: Sequence[float], metric: str) -> Axis:
    if not values:
        return Axis(0.0, 1.0)
    low, high = min(values), max(values)
    if low > 0 and high / low > _LOG_SPAN and not is_share(metric) and metric != "lr":
        low, high = low / 1.1, high * 1.1
        return Axis(low, high, log=True, ticks=tuple(log_ticks(low, high)))
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    floor, ceiling = low - room, high + room
    if low >= 0 > floor:
        floor = 0.0
    if is_share(metric) and ceiling > 1 >= high:
        ceiling = 1.0 + 0.02 * (1.0 - floor)
    if not (math.isfinite(ceiling - floor) and ceiling > floor):
        return Axis(0.0, 1.0)
    return Axis(floor, ceiling, ticks=tuple(tick for tick in ticks(floor, ceiling, 5) if floor <= tick <= ceiling))


def _tick_text(metric: str, axis: Axis) -> Callable[[float], str]:
    """Ticks of shares are whole percents where they are apart by one or more."""
    if not is_share(metric):
        return short
    gap = axis.ticks[1] - axis.ticks[0] if len(axis.ticks) > 1 else 1.0
    decimals = 0 if gap > 0.0099 else 1 if gap > 0.00099 else 2
    return lambda value: f"{100 * value:.{decimals}f}%"


def _labels(axis: Axis, side: str, text: Callable[[float], str]) -> str:
    return "".join(
        f'<span style="{side}:{axis.at(tick) / 10:.1f}%">{escaped(text(tick))}</span>' for tick in axis.ticks
    )


def _drawn(item: Curve, x_axis: Axis, y_axis: Axis, most_points: int) -> str:
    """The curve's lines, with dots where there are few points."""
    total = len(item.points)
    kind = f"t{item.tone}{' dashed' if item.dashed else ''}"

    def path(pieces: Sequence[Sequence[Point]], names: str) -> str:
        data = "".join(
            "".join(
                f"{'L' if index else 'M'}{x_axis.at(x):.1f} {_SIZE - y_axis.at(y):.1f}"
                for index, (x, y) in enumerate(piece)
            )
            + ("h0" if len(piece) == 1 else "")
            for piece in pieces
        )
        return f'<path class="line {names}" d="{data}"/>' if data else ""

    share = [max(4, round(most_points * len(piece) / max(total, 1))) for piece in item.pieces[:200]]
    pieces = [thinned(piece, most) for piece, most in zip(item.pieces, share, strict=False)]
    if total < 80 or not item.noisy:
        dots = "".join(f"M{x_axis.at(x):.1f} {_SIZE - y_axis.at(y):.1f}h0" for x, y in item.points)
        return path(pieces, kind) + (f'<path class="dots t{item.tone}" d="{dots}"/>' if total <= 30 else "")
    means = [
        thinned(smoothed(piece, max(3, total // 40)), most) for piece, most in zip(item.pieces, share, strict=False)
    ]
    return path(pieces, f"{kind} faint") + path(means, kind)


def _strips(
    curves: Sequence[Curve],
    x_axis: Axis,
    y_axis: Axis,
    x_name: str,
    x_text: Callable[[float], str],
    text: Callable[[float], str],
) -> list[str]:
    """Invisible strips that show the values near them while the pointer rests there."""
    lists = [(item, item.points) for item in curves if item.pieces]
    if not lists:
        return []
    xs = _spread(sorted({x for _, points in lists for x, _ in points}), _MOST_STRIPS)
    places = [x_axis.at(x) for x in xs]
    edges = [0.0, *((left + right) / 2 for left, right in pairwise(places)), float(_SIZE)]
    strips = []
    for x, place, left, right in zip(xs, places, edges[:-1], edges[1:], strict=True):
        said, dots = [f"{x_name} {x_text(x)}"], []
        for item, points in lists:
            near_x, near_y = _nearest(points, x)
            if abs(x_axis.at(near_x) - place) <= max(right - left, 1.0):
                said.append(f"{item.label} {text(near_y)}")
                dots.append(f'<path class="dots t{item.tone}" d="M{place:.0f} {_SIZE - y_axis.at(near_y):.0f}h0"/>')
        strips.append(
            f'<g class="strip"><title>{escaped(chr(10).join(said), 600)}</title>'
            f'<rect x="{left:.0f}" width="{max(right - left, 1):.0f}" height="{_SIZE}"/>'
            f'<path d="M{place:.0f} 0V{_SIZE}"/>{"".join(dots[:8])}</g>'
        )
    return strips


def _nearest(points: Sequence[Point], x: float) -> Point:
    index = bisect_left(points, x, key=lambda point: point[0])
    around = points[max(0, index - 1) : index + 1]
    return min(around, key=lambda point: abs(point[0] - x))


def _spread(values: Sequence[float], most: int) -> list[float]:
    """At most `most` of the values, evenly chosen, first and last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(index * (len(values) - 1) / (most - 1))] for index in range(most)]


def _legend(curves: Sequence[Curve], text: Callable[[float], str]) -> str:
    entries = "".join(
        f'<li><i class="t{item.tone}{" dashed" if item.dashed else ""}"></i><bdi>{escaped(item.label, 60)}</bdi> '
        f"<b>{text(item.points[-1][1]) if item.pieces else '–'}</b></li>"
        for item in curves
    )
    return f'<ul class="legend">{entries}</ul>'


def _told(item: Curve, text: Callable[[float], str]) -> str:
    """The curve in words, for who cannot see it."""
    points = item.points
    if not points:
        return f"{item.label} has no finite value"
    values = [value for _, value in points]
    return (
        f"{item.label} from {text(values[0])} to {text(values[-1])}, "
        f"lowest {text(min(values))}, highest {text(max(values))}"
    )


def _gap_note(count: int, gaps: Sequence[float], x_name: str, x_text: Callable[[float], str]) -> str:
    if not gaps:
        return ""
    values = "value is" if count == 1 else "values are"
    return f'<p class="note">{count} {values} not finite, the first at {escaped(x_name)} {x_text(min(gaps))} (red).</p>'
