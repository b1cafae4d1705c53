"""Show the loss along the training's own directions, and the plane with the way of the training."""

from __future__ import annotations

import math

from dnntrain.explain.directions import LossDirections, LossPlane
from dnntrain.report.chart_data import Curve
from dnntrain.report.format import format_percent, format_short
from dnntrain.report.html import escape_text, render_section
from dnntrain.report.svg_chart import draw_chart

#: Units of a side of the drawing of the plane, and its colors from the smallest loss to the largest.
_SIDE = 1000
_COLORS = ((38, 20, 80), (150, 30, 110), (236, 90, 50), (255, 220, 90))


def render_directions(directions: LossDirections) -> str:
    """Return the two lines, and the plane if there are three checkpoints."""
    steps = directions.steps
    text = (
        f"Mean loss of {directions.examples} examples. The line of the training leads from the checkpoint of step "
        f"{steps[0]}, at -1, to that of step {steps[-1]}, at 0, and as far beyond; their weights are "
        f"{format_short(directions.distance)} apart. The random direction is normalized for each filter, and as long."
    )
    curves = [
        _make_curve(label, directions.places, losses, tone)
        for tone, (label, losses) in enumerate((("training", directions.training), ("random", directions.random)))
    ]
    chart = draw_chart("Loss along two directions", curves, x_name="distance from the last checkpoint")
    plane = "" if directions.plane is None else _draw_plane(directions.plane, steps)
    body = f'<p class="note">{escape_text(text, 500)}</p><div class="charts below">{chart}{plane}</div>'
    return render_section("Where did the training go?", body)


def _make_curve(label: str, places: tuple[float, ...], losses: list[float], tone: int) -> Curve:
    points = tuple((place, loss) for place, loss in zip(places, losses, strict=True) if math.isfinite(loss))
    return Curve(label, (points,) if points else (), tone)


def _draw_plane(plane: LossPlane, steps: list[int]) -> str:
    """Return the plane: a square for each place, its color the logarithm of the loss, and the checkpoints."""
    finite = [loss for row in plane.losses for loss in row if math.isfinite(loss)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    columns, rows = len(plane.x), len(plane.y)
    width, height = _SIDE / columns, _SIDE / rows
    squares = "".join(
        f'<rect x="{column * width:.1f}" y="{(rows - 1 - row) * height:.1f}" width="{width + 0.5:.1f}" '
        f'height="{height + 0.5:.1f}" fill="{_choose_color(loss, low, high)}"><title>{format_short(loss)}</title></rect>'
        for row, losses in enumerate(plane.losses)
        for column, loss in enumerate(losses)
    )
    points = [
        (_place(x, plane.x, width), _SIDE - _place(y, plane.y, height))  # rows are drawn from the top
        for x, y in plane.path
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{16 if step == steps[-1] else 9}" fill="#fff" stroke="#111" '
        f'stroke-width="3"><title>step {step}</title></circle>'
        for step, (x, y) in zip(steps, points, strict=True)
    )
    first, second = (format_percent(share) for share in plane.explained)
    label = escape_text(f"loss from {format_short(low)} to {format_short(high)} on the plane of the checkpoints", 200)
    heading = f"Two principal axes: {first} and {second} of the way"
    return (
        f'<figure class="chart"><figcaption><h3>{escape_text(heading)}</h3></figcaption><p class="note">{label}; the '
        'last one is the large circle</p><div class="plot cloud"><div class="field">'
        f'<svg viewBox="0 0 {_SIDE} {_SIDE}" preserveAspectRatio="none" role="img" aria-label="{label}">{squares}'
        f'<polyline points="{line}" fill="none" stroke="#fff" stroke-width="5"/>{marks}</svg></div></div></figure>'
    )


def _place(value: float, places: list[float], side: float) -> float:
    """Return the coordinate of a value, if the first place is in the middle of the first square."""
    span = places[-1] - places[0]
    share = (value - places[0]) / span if span > 0 else 0.5
    return side / 2 + share * side * (len(places) - 1)


def _choose_color(loss: float, low: float, high: float) -> str:
    """Return the color of a loss by its logarithm; gray if it is not finite."""
    if not math.isfinite(loss):
        return "#888"
    floor = max(low, 1e-6 * max(high, 1e-30))
    span = math.log(max(high, floor) / floor)
    place = (math.log(max(loss, floor) / floor) / span if span > 0 else 0.0) * (len(_COLORS) - 1)
    number = min(int(place), len(_COLORS) - 2)
    mixed = (a + (b - a) * (place - number) for a, b in zip(_COLORS[number], _COLORS[number + 1], strict=True))
    return "#" + "".join(f"{round(part):02x}" for part in mixed)
