"""Show the main figures of explain.json; explain.html shows all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dnntrain.report.format import format_percent, format_short
from dnntrain.report.html import escape_text, render_section, render_table
from dnntrain.report.load_run import RunData
from dnntrain.report.untrusted_files import parse_number, read_data

_MAX_CHECKS = 20


def render_explanation_summary(run: RunData) -> str:
    """Return the section of explain.json; empty without the file."""
    file = run.path / "explain.json"
    if not file.is_file():
        return ""
    data: Mapping[str, Any] = read_data(file, [])
    maps, calibration, labels = (_to_mapping(data.get(name)) for name in ("maps", "calibration", "labels"))
    facts = []
    if calibration:
        before = parse_number(_to_mapping(calibration.get("before")).get("ece"))
        facts.append(f"calibration error {format_percent(before)}")
    if labels:
        count, examples = (format_short(parse_number(labels.get(name))) for name in ("count", "examples"))
        facts.append(f"{count} of {examples} labels in doubt")
    if maps:
        facts.append(f"maps by {maps.get('method')}")
    checks = maps.get("checks")
    rows = [
        [
            escape_text(check.get("name"), 80),
            format_short(parse_number(check.get("mean"))),
            f'<span class="pill {"good" if check.get("passed") is True else "bad"}">'
            f"{'passed' if check.get('passed') is True else 'failed'}</span>",
        ]
        for check in (checks[:_MAX_CHECKS] if isinstance(checks, list) else [])
        if isinstance(check, dict)
    ]
    table = render_table(("check of the maps", "value", "verdict"), rows, "On random examples") if rows else ""
    text = f'<p class="note">{escape_text("; ".join(facts), 400)}. explain.html beside this page shows all.</p>'
    return render_section("Explanation", text + (f'<div class="panel below">{table}</div>' if table else ""))


def _to_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
