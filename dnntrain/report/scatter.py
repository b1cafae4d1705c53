"""Draw a cloud of points as inline SVG without scripts, in the form of a line chart."""

from __future__ import annotations

from collections.abc import Sequence

from dnntrain.report.chart_data import Axis
from dnntrain.report.format import Point, compute_ticks, format_short
from dnntrain.report.html import escape_text

_SIZE = 1000


def draw_scatter(title: str, points: Sequence[Point], x_name: str, line: Sequence[Point], is_square: bool) -> str:
    """Return a figure of `points` and a straight `line` through two points.

    With `is_square` both axes have the same range, so that the diagonal is the line of equal values.
    """
    if not points:
        return ""
    xs, ys = ([point[axis] for point in points] for axis in (0, 1))
    bounds = [(min(xs), max(xs)), (min(ys), max(ys))]
    if is_square:
        bounds = [(min(low for low, _ in bounds), max(high for _, high in bounds))] * 2
    x_axis, y_axis = (_make_axis(low, high) for low, high in bounds)

    def project(point: Point) -> str:
        return f"{x_axis.project(point[0]):.0f} {_SIZE - y_axis.project(point[1]):.0f}"

    grid = "".join(f'<path class="grid" d="M0 {_SIZE - y_axis.project(tick):.0f}H{_SIZE}"/>' for tick in y_axis.ticks)
    path = "L".join(project(point) for point in line)
    dots = "".join(f"M{project(point)}h0" for point in points)
    shapes = f'{grid}<path class="mark" d="M{path}"/><path class="dots t0" d="{dots}"/>'
    return (
        f'<figure class="chart"><figcaption><h3>{escape_text(title)}</h3></figcaption>'
        f'<div class="plot"><div class="ys" aria-hidden="true">{_draw_labels(y_axis, "bottom")}</div>'
        f'<div class="field"><svg viewBox="0 0 {_SIZE} {_SIZE}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape_text(f"{title} by {x_name}: {len(points)} examples", 300)}">{shapes}</svg></div>'
        f'<div class="xs" aria-hidden="true">{_draw_labels(x_axis, "left")}<b>{escape_text(x_name)}</b></div></div>'
        "</figure>"
    )


def _make_axis(low: float, high: float) -> Axis:
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    ticks = [tick for tick in compute_ticks(low - room, high + room, 5) if low - room <= tick <= high + room]
    return Axis(low - room, high + room, ticks=tuple(ticks))


def _draw_labels(axis: Axis, side: str) -> str:
    return "".join(
        f'<span style="{side}:{axis.project(tick) / 10:.1f}%">{escape_text(format_short(tick))}</span>'
        for tick in axis.ticks
    )
