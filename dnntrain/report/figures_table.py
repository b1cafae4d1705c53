"""Show precision, recall and F1 of each class or label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dnntrain.report.format import format_percent
from dnntrain.report.html import isolate_text, render_table
from dnntrain.report.untrusted_files import parse_number

_FIGURES = ("precision", "recall", "f1")
_MAX_ROWS = 200


def render_figures(evaluation: Mapping[str, Any]) -> str:
    """Return the table of the classes or labels; empty if the file has none."""
    for figures_key, names_key, noun in (("by_label", "label_names", "label"), ("by_class", "class_names", "class")):
        figures, names = evaluation.get(figures_key), evaluation.get(names_key)
        if not isinstance(figures, dict) or not isinstance(names, list):
            continue
        values = [figures.get(name) for name in _FIGURES]
        columns = [column for column in values if isinstance(column, list) and len(column) == len(names)]
        if len(columns) < len(_FIGURES):
            continue
        rows = [
            [isolate_text(name, 60), *(format_percent(parse_number(column[row])) for column in columns)]
            for row, name in enumerate(names[:_MAX_ROWS])
        ]
        return render_table((noun, "precision", "recall", "F1"), rows, f"Precision and recall of each {noun}")
    return ""
