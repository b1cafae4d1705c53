"""Draw line charts as inline SVG without scripts.

The drawing is stretched to the width of the page while its lines keep their thickness. The numbers
of the axes are HTML beside it, and so stay legible on a phone and on paper. A `<title>` shows the
values under the pointer.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import pairwise

from dnntrain.protocols import MetricInfo
from dnntrain.report.chart_data import CHART_SIZE, Axis, Curve, Mark
from dnntrain.report.format import (
    Point,
    compute_log_ticks,
    compute_ticks,
    format_metric,
    format_short,
    smooth_points,
    thin_points,
)
from dnntrain.report.html import escape_text
from dnntrain.utils.units import format_seconds

_PLAIN = MetricInfo("")
_MAX_POINTS = 400
_MAX_STRIPS = 60
#: Positive values that span more than this factor are drawn on a logarithmic axis.
_LOG_SPAN = 40


def draw_chart(
    title: str,
    curves: Sequence[Curve],
    *,
    metric: MetricInfo = _PLAIN,
    x_name: str = "step",
    format_x: Callable[[float], str] = format_short,
    marks: Sequence[Mark] = (),
    max_points: int = _MAX_POINTS,
    from_zero: bool = False,
) -> str:
    """Return a figure of `curves`; empty if there is nothing to draw.

    `metric` says how to write values. With `from_zero` their axis begins at 0, so that heights
    compare.
    """
    curves = [item for item in curves if item.pieces or item.gaps]
    points = [point for item in curves for point in item.points]
    gaps = [x for item in curves for x in item.gaps]
    if not points and not gaps:
        return ""
    x_axis = _make_x_axis(
        [x for x, _ in points] + gaps + [mark.x for mark in marks], by_time=format_x is format_seconds
    )
    y_axis = _make_y_axis([y for _, y in points] + ([0.0] if from_zero else []), metric)

    def format_value(value: float) -> str:
        return format_metric(metric, value)

    shapes = [
        *(f'<path class="grid" d="M0 {CHART_SIZE - y_axis.project(tick):.0f}H{CHART_SIZE}"/>' for tick in y_axis.ticks),
        *(
            f'<path class="gap" d="M{x_axis.project(x):.0f} {CHART_SIZE}V{CHART_SIZE - 30}"/>'
            for x in _pick_evenly(gaps, 60)
        ),
        *(_draw_curve(item, x_axis, y_axis, max_points) for item in curves),
        *(f'<path class="mark" d="M{x_axis.project(mark.x):.0f} 0V{CHART_SIZE}"/>' for mark in marks),
        *_draw_strips(curves, x_axis, y_axis, x_name, format_x, format_value),
    ]
    signs = "".join(
        f'<span class="sign" style="left:{x_axis.project(mark.x) / 10:.1f}%" title="{escape_text(mark.meaning)}">'
        f"{escape_text(mark.sign)}</span>"
        for mark in marks
    )
    y_labels = _draw_labels(y_axis, "bottom", _make_tick_formatter(metric, y_axis))
    description = f"{title} by {x_name}: {'; '.join(_describe_curve(item, format_value) for item in curves)}"
    return (
        f'<figure class="chart"><figcaption><h3>{escape_text(title)}</h3>'
        f"{_draw_legend(curves, format_value)}</figcaption>"
        f'<div class="plot"><div class="ys" aria-hidden="true">{y_labels}</div>'
        f'<div class="field"><svg viewBox="0 0 {CHART_SIZE} {CHART_SIZE}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape_text(description, 900)}">{"".join(shapes)}</svg>{signs}</div>'
        f'<div class="xs" aria-hidden="true">{_draw_labels(x_axis, "left", format_x)}'
        f"<b>{escape_text(x_name)}</b></div></div>"
        f"{_make_gap_note(sum(item.not_finite for item in curves), gaps, x_name, format_x)}</figure>"
    )


def _make_x_axis(xs: Sequence[float], by_time: bool) -> Axis:
    low, high = min(xs), max(xs)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 1, high + 1
    # The start of a run belongs to its curves if they begin near it.
    if 0 < low < 0.15 * high:
        low = 0.0
    return Axis(low, high, ticks=tuple(compute_ticks(low, high, 6, by_time)))


def _make_y_axis(values: Sequence[float], metric: MetricInfo) -> Axis:
    if not values:
        return Axis(0.0, 1.0)
    low, high = min(values), max(values)
    if low > 0 and high / low > _LOG_SPAN and not metric.is_share and metric.name != "lr":
        low, high = low / 1.1, high * 1.1
        return Axis(low, high, log=True, ticks=tuple(compute_log_ticks(low, high)))
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    floor, ceiling = low - room, high + room
    if low >= 0 > floor:
        floor = 0.0
    if metric.is_share and ceiling > 1 >= high:
        ceiling = 1.0 + 0.02 * (1.0 - floor)
    if not (math.isfinite(ceiling - floor) and ceiling > floor):
        return Axis(0.0, 1.0)
    return Axis(
        floor, ceiling, ticks=tuple(tick for tick in compute_ticks(floor, ceiling, 5) if floor <= tick <= ceiling)
    )


def _make_tick_formatter(metric: MetricInfo, axis: Axis) -> Callable[[float], str]:
    """Return a formatter of ticks.

    Ticks of shares are whole percents if they are apart by one or more.
    """
    if not metric.is_share:
        return format_short
    gap = axis.ticks[1] - axis.ticks[0] if len(axis.ticks) > 1 else 1.0
    decimals = 0 if gap > 0.0099 else 1 if gap > 0.00099 else 2
    return lambda value: f"{100 * value:.{decimals}f}%"


def _draw_labels(axis: Axis, side: str, format_value: Callable[[float], str]) -> str:
    return "".join(
        f'<span style="{side}:{axis.project(tick) / 10:.1f}%">{escape_text(format_value(tick))}</span>'
        for tick in axis.ticks
    )


def _draw_curve(curve: Curve, x_axis: Axis, y_axis: Axis, max_points: int) -> str:
    """Return the curve's lines, with dots if there are few points."""
    total = len(curve.points)
    kind = f"t{curve.tone}{' dashed' if curve.dashed else ''}"

    def draw_path(pieces: Sequence[Sequence[Point]], names: str) -> str:
        data = "".join(
            "".join(
                f"{'L' if index else 'M'}{x_axis.project(x):.1f} {CHART_SIZE - y_axis.project(y):.1f}"
                for index, (x, y) in enumerate(piece)
            )
            + ("h0" if len(piece) == 1 else "")
            for piece in pieces
        )
        return f'<path class="line {names}" d="{data}"/>' if data else ""

    point_budgets = [max(4, round(max_points * len(piece) / max(total, 1))) for piece in curve.pieces[:200]]
    pieces = [thin_points(piece, budget) for piece, budget in zip(curve.pieces, point_budgets, strict=False)]
    if total < 80 or not curve.noisy:
        dots = "".join(f"M{x_axis.project(x):.1f} {CHART_SIZE - y_axis.project(y):.1f}h0" for x, y in curve.points)
        return draw_path(pieces, kind) + (f'<path class="dots t{curve.tone}" d="{dots}"/>' if total <= 30 else "")
    means = [
        thin_points(smooth_points(piece, max(3, total // 40)), budget)
        for piece, budget in zip(curve.pieces, point_budgets, strict=False)
    ]
    return draw_path(pieces, f"{kind} faint") + draw_path(means, kind)


def _draw_strips(
    curves: Sequence[Curve],
    x_axis: Axis,
    y_axis: Axis,
    x_name: str,
    format_x: Callable[[float], str],
    format_value: Callable[[float], str],
) -> list[str]:
    """Return invisible strips that show the values near them under the pointer."""
    curve_points = [(item, item.points) for item in curves if item.pieces]
    if not curve_points:
        return []
    xs = _pick_evenly(sorted({x for _, points in curve_points for x, _ in points}), _MAX_STRIPS)
    centers = [x_axis.project(x) for x in xs]
    edges = [0.0, *((left + right) / 2 for left, right in pairwise(centers)), float(CHART_SIZE)]
    strips = []
    for x, center, left, right in zip(xs, centers, edges[:-1], edges[1:], strict=True):
        tooltip_lines, dots = [f"{x_name} {format_x(x)}"], []
        for item, points in curve_points:
            near_x, near_y = _find_nearest(points, x)
            if abs(x_axis.project(near_x) - center) <= max(right - left, 1.0):
                tooltip_lines.append(f"{item.label} {format_value(near_y)}")
                dots.append(
                    f'<path class="dots t{item.tone}" d="M{center:.0f} {CHART_SIZE - y_axis.project(near_y):.0f}h0"/>'
                )
        strips.append(
            f'<g class="strip"><title>{escape_text(chr(10).join(tooltip_lines), 600)}</title>'
            f'<rect x="{left:.0f}" width="{max(right - left, 1):.0f}" height="{CHART_SIZE}"/>'
            f'<path d="M{center:.0f} 0V{CHART_SIZE}"/>{"".join(dots[:8])}</g>'
        )
    return strips


def _find_nearest(points: Sequence[Point], x: float) -> Point:
    index = bisect_left(points, x, key=lambda point: point[0])
    candidates = points[max(0, index - 1) : index + 1]
    return min(candidates, key=lambda point: abs(point[0] - x))


def _pick_evenly(values: Sequence[float], max_count: int) -> list[float]:
    """Return at most `max_count` of the values, evenly chosen, with the first and the last."""
    if len(values) <= max_count:
        return list(values)
    return [values[round(index * (len(values) - 1) / (max_count - 1))] for index in range(max_count)]


def _draw_legend(curves: Sequence[Curve], format_value: Callable[[float], str]) -> str:
    entries = "".join(
        f'<li><i class="t{item.tone}{" dashed" if item.dashed else ""}"></i><bdi>{escape_text(item.label, 60)}</bdi> '
        f"<b>{format_value(item.points[-1][1]) if item.pieces else '–'}</b></li>"
        for item in curves
    )
    return f'<ul class="legend">{entries}</ul>'


def _describe_curve(curve: Curve, format_value: Callable[[float], str]) -> str:
    """Return the curve in words, for screen readers."""
    points = curve.points
    if not points:
        return f"{curve.label} has no finite value"
    values = [value for _, value in points]
    return (
        f"{curve.label} from {format_value(values[0])} to {format_value(values[-1])}, "
        f"lowest {format_value(min(values))}, highest {format_value(max(values))}"
    )


def _make_gap_note(count: int, gaps: Sequence[float], x_name: str, format_x: Callable[[float], str]) -> str:
    if not gaps:
        return ""
    values = "value is" if count == 1 else "values are"
    first = f"{escape_text(x_name)} {format_x(min(gaps))}"
    return f'<p class="note">{count} {values} not finite, the first at {first} (red).</p>'
