"""Draw points with intervals in both directions, and the line through the best of them, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dnntrain.protocols import MetricInfo
from dnntrain.report.chart_data import Axis
from dnntrain.report.format import compute_log_ticks, compute_ticks, format_metric, format_short
from dnntrain.report.html import escape_text

_SIZE = 1000
_MAX_TONES = 8


@dataclass(frozen=True)
class ScatterPoint:
    """A point: its label, the value, and the ends of the interval in each direction."""

    label: str
    x: float
    x_interval: tuple[float, float]
    y: float
    y_interval: tuple[float, float]


def draw_scatter(
    title: str, points: Sequence[ScatterPoint], front: Sequence[ScatterPoint], metric: MetricInfo, x_unit: str
) -> str:
    """Return a chart with a logarithmic x axis; `front` are the points that no other one beats."""
    usable = [point for point in points if math.isfinite(point.y) and point.x > 0 and point.x_interval[0] > 0]
    if not usable:
        return ""
    x_axis, y_axis = _make_x_axis(usable), _make_y_axis(usable)
    shapes = [f'<path class="grid" d="M0 {_SIZE - y_axis.project(tick):.0f}H{_SIZE}"/>' for tick in y_axis.ticks]
    if len(front) > 1:
        line = "L".join(f"{x_axis.project(item.x):.1f} {_SIZE - y_axis.project(item.y):.1f}" for item in front)
        shapes.append(f'<path class="line t7 dashed" d="M{line}"/>')
    shapes += [
        _draw_point(point, index % _MAX_TONES, x_axis, y_axis, metric, x_unit) for index, point in enumerate(usable)
    ]
    legend = "".join(
        f'<li><i class="t{index % _MAX_TONES}"></i><bdi>{escape_text(point.label, 60)}</bdi> '
        f"<b>{escape_text(format_metric(metric, point.y))}</b></li>"
        for index, point in enumerate(usable)
    )
    words = "; ".join(f"{item.label}: {format_metric(metric, item.y)}, {item.x:.3g} {x_unit}" for item in usable)
    y_labels = "".join(
        f'<span style="bottom:{y_axis.project(tick) / 10:.1f}%">{escape_text(_format_tick(metric, tick))}</span>'
        for tick in y_axis.ticks
    )
    x_labels = "".join(
        f'<span style="left:{x_axis.project(tick) / 10:.1f}%">{format_short(tick)}</span>' for tick in x_axis.ticks
    )
    return (
        f'<figure class="chart"><figcaption><h3>{escape_text(title)}</h3><ul class="legend">{legend}</ul></figcaption>'
        f'<div class="plot"><div class="ys" aria-hidden="true">{y_labels}</div><div class="field">'
        f'<svg viewBox="0 0 {_SIZE} {_SIZE}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape_text(f"{title}: {words}", 900)}">{"".join(shapes)}</svg></div>'
        f'<div class="xs" aria-hidden="true">{x_labels}<b>{escape_text(x_unit)}</b></div></div></figure>'
    )


def _draw_point(point: ScatterPoint, tone: int, x_axis: Axis, y_axis: Axis, metric: MetricInfo, x_unit: str) -> str:
    x, y = x_axis.project(point.x), _SIZE - y_axis.project(point.y)
    low, high = (_SIZE - y_axis.project(value) for value in point.y_interval)
    left, right = (x_axis.project(value) for value in point.x_interval)
    low_text, high_text = (format_metric(metric, value) for value in point.y_interval)
    text = (
        f"{point.label}\n{metric.name} {format_metric(metric, point.y)} ({low_text} to {high_text})\n"
        f"{point.x:.3g} {x_unit} ({point.x_interval[0]:.3g} to {point.x_interval[1]:.3g})"
    )
    return (
        f"<g><title>{escape_text(text, 400)}</title>"
        f'<path class="line t{tone}" d="M{x:.1f} {low:.1f}V{high:.1f}M{left:.1f} {y:.1f}H{right:.1f}"/>'
        f'<path class="dots t{tone}" d="M{x:.1f} {y:.1f}h0"/></g>'
    )


def _make_x_axis(points: Sequence[ScatterPoint]) -> Axis:
    low = min(point.x_interval[0] for point in points) / 1.25
    high = max(point.x_interval[1] for point in points) * 1.25
    return Axis(low, high, log=True, ticks=tuple(compute_log_ticks(low, high)))


def _make_y_axis(points: Sequence[ScatterPoint]) -> Axis:
    low = min(point.y_interval[0] for point in points)
    high = max(point.y_interval[1] for point in points)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - room, high + room
    return Axis(low, high, ticks=tuple(tick for tick in compute_ticks(low, high, 5) if low <= tick <= high))


def _format_tick(metric: MetricInfo, tick: float) -> str:
    return f"{100 * tick:.4g}%" if metric.is_share else format_short(tick)
