"""Show the sensitivity of a network to cuts: the metric against the share of a group that is removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dnntrain.report.format import format_percent, format_short
from dnntrain.report.html import isolate_text, render_section, render_table
from dnntrain.report.load_run import RunData
from dnntrain.report.untrusted_files import parse_number, read_data

_MAX_ROWS = 200


def render_sensitivity(run: RunData) -> str:
    """Return the section of sensitivity.json; empty without the file."""
    file = run.path / "sensitivity.json"
    if not file.is_file():
        return ""
    data: Mapping[str, Any] = read_data(file, [])
    groups, ratios = data.get("groups"), data.get("ratios")
    if not isinstance(groups, list) or not isinstance(ratios, list):
        return ""
    header = ["group", "width", "FLOPs", *(f"−{format_percent(parse_number(ratio))}" for ratio in ratios[:8])]
    rows = []
    for group in groups[:_MAX_ROWS]:
        values = group.get("values") if isinstance(group, dict) else None
        if isinstance(values, list):
            rows.append(
                [
                    isolate_text(group.get("group"), 80),
                    format_short(parse_number(group.get("width"))),
                    f"−{format_percent(parse_number(group.get('saved_flops')))}",
                    *(format_short(parse_number(value)) for value in values[: len(ratios)]),
                ]
            )
    if not rows:
        return ""
    whole = format_short(parse_number(data.get("whole")))
    caption = f"{data.get('metric')} if each group is cut alone, without training; {whole} of the whole network"
    return render_section("Sensitivity to cuts", render_table(header, rows, caption))
