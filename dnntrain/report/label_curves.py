"""Show precision by recall of each label."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dnntrain.report.format import Point
from dnntrain.report.scatter import draw_scatter
from dnntrain.report.untrusted_files import parse_number

_MAX_LABELS = 24
_MAX_POINTS = 200


def render_label_curves(evaluation: Mapping[str, Any]) -> str:
    """Return a panel for each label; empty if the file has none."""
    names, curves = evaluation.get("label_names"), evaluation.get("label_curves")
    if not isinstance(names, list) or not isinstance(curves, list) or len(names) != len(curves):
        return ""
    figures = []
    for name, curve in zip(names[:_MAX_LABELS], curves, strict=False):
        points = [point for pair in _take(curve) if (point := _read_point(pair)) is not None]
        if points:
            level = min(points, key=lambda point: point[1])[1]
            figures.append(
                draw_scatter(f"{str(name)[:60]}: precision", points, "recall", [(0.0, level), (1.0, level)], False)
            )
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def _take(curve: object) -> list[object]:
    return curve[:_MAX_POINTS] if isinstance(curve, list) else []


def _read_point(pair: object) -> Point | None:
    if not isinstance(pair, list) or len(pair) != 2:
        return None
    recall, precision = map(parse_number, pair)
    return (recall, precision) if math.isfinite(recall) and math.isfinite(precision) else None
