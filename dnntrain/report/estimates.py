"""Show the errors of estimated numbers: estimates beside the targets, residuals, the largest errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dnntrain.report.format import Point, format_short
from dnntrain.report.html import isolate_text, render_table
from dnntrain.report.scatter import draw_scatter
from dnntrain.report.untrusted_files import parse_number

_MAX_TARGETS = 8
_MAX_POINTS = 2000
_MAX_ROWS = 48


def read_estimates(evaluation: Mapping[str, Any]) -> dict[str, list[Point]]:
    """Return (target, estimate) of examples for each target; empty if the file has no valid ones."""
    names, clouds = evaluation.get("target_names"), evaluation.get("points")
    if not isinstance(names, list) or not isinstance(clouds, list) or len(names) != len(clouds):
        return {}
    return {
        str(name)[:80]: [point for pair in cloud[:_MAX_POINTS] if (point := _read_point(pair)) is not None]
        for name, cloud in zip(names[:_MAX_TARGETS], clouds, strict=False)
        if isinstance(cloud, list)
    }


def render_estimates(evaluation: Mapping[str, Any]) -> str:
    """Return the panels of all targets, and the table of the largest errors."""
    figures = []
    for name, points in read_estimates(evaluation).items():
        ends = [value for point in points for value in point]
        if not ends:
            continue
        diagonal = [(min(ends), min(ends)), (max(ends), max(ends))]
        figures.append(draw_scatter(f"{name}: estimate", points, "target", diagonal, is_square=True))
        residuals = [(estimate, target - estimate) for target, estimate in points]
        estimates = [estimate for estimate, _ in residuals]
        zero = [(min(estimates), 0.0), (max(estimates), 0.0)]
        figures.append(
            draw_scatter(f"{name}: residual (target - estimate)", residuals, "estimate", zero, is_square=False)
        )
    if not figures:
        return ""
    return f'<div class="charts">{"".join(figures)}</div>{_render_worst(evaluation)}'


def _render_worst(evaluation: Mapping[str, Any]) -> str:
    names, worst = evaluation["target_names"], evaluation.get("worst")
    rows = []
    for sample in worst[:_MAX_ROWS] if isinstance(worst, list) else []:
        if not isinstance(sample, dict):
            continue
        targets, estimates = sample.get("targets"), sample.get("estimates")
        if not isinstance(targets, list) or not isinstance(estimates, list) or len(targets) != len(estimates):
            continue
        for name, target, estimate in zip(names[:_MAX_TARGETS], targets, estimates, strict=False):
            values = (parse_number(target), parse_number(estimate))
            cells = [format_short(value) for value in (*values, values[0] - values[1])]
            rows.append([isolate_text(sample.get("name", ""), 60), isolate_text(name, 40), *cells])
    return render_table(
        ("example", "target", "value", "estimate", "residual"), rows[:_MAX_ROWS], "The largest errors of the test split"
    )


def _read_point(pair: object) -> Point | None:
    if not isinstance(pair, list) or len(pair) != 2:
        return None
    target, estimate = map(parse_number, pair)
    return (target, estimate) if math.isfinite(target) and math.isfinite(estimate) else None
