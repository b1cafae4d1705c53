"""Show where the time of a step goes, from the why.json that `dnntrain why RUN` keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dnntrain.report.format import format_percent, format_short
from dnntrain.report.html import escape_text, isolate_text, render_section, render_table
from dnntrain.report.load_run import RunData
from dnntrain.report.untrusted_files import parse_number, read_data

_MAX_ROWS = 30


def render_step_time(run: RunData) -> str:
    """Return the section of why.json; empty without the file."""
    file = run.path / "why.json"
    if not file.is_file():
        return ""
    data = read_data(file, [])
    phases, step = data.get("phases"), data.get("step")
    if not isinstance(phases, dict) or not isinstance(step, dict):
        return ""
    values = {str(name): parse_number(value) for name, value in list(phases.items())[:_MAX_ROWS]}
    total = sum(value for value in values.values() if value >= 0) or 1.0
    rows = [
        [isolate_text(name, 40), f"{format_short(1000 * value)} ms", format_percent(value / total)]
        for name, value in values.items()
        if value >= 0
    ]
    if not rows:
        return ""
    seconds = format_short(1000 * parse_number(step.get("seconds")))
    caption = f"A step of {seconds} ms by phase. Bottleneck: {escape_text(data.get('bottleneck'), 40)}"
    body = render_table(["phase", "time", "share"], rows, caption) + _render_remedies(data.get("remedies"))
    return render_section("Time of a step", body)


def _render_remedies(remedies: Any) -> str:
    """Return the table of the measured gains."""
    rows = []
    for item in remedies[:_MAX_ROWS] if isinstance(remedies, list) else []:
        probe: Mapping[str, Any] = item.get("probe") if isinstance(item, dict) else None  # type: ignore[assignment]
        if not isinstance(probe, dict):
            continue
        words, ratio = probe.get("words"), probe.get("ratio")
        numbers = [parse_number(value) for value in ratio[:3]] if isinstance(ratio, list) else []
        gain = f"{numbers[0]:.2f} × ({numbers[1]:.2f} to {numbers[2]:.2f})" if len(numbers) == 3 else "-"
        text = " ".join(map(str, words)) if isinstance(words, list) else ""
        rows.append([isolate_text(text, 80), gain, isolate_text(probe.get("verdict"), 120)])
    if not rows:
        return ""
    return render_table(["setting", "speed", "verdict"], rows, "Settings that were measured beside the run's own")
