"""Render the exports of a run: their size, their difference from the run, and how they compute."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnntrain.report.format import format_metric, format_percent
from dnntrain.report.html import escape_text, isolate_text, render_section, render_table
from dnntrain.report.load_run import RunData
from dnntrain.report.untrusted_files import parse_number, read_data
from dnntrain.utils.units import format_bytes

_MAX_EXPORTS = 20
_MAX_FILES = 50


def render_exports(run: RunData) -> str:
    """Return a table of the exports in the run directory; empty if there are none."""
    rows, notes = [], list[str]()
    for folder in sorted((run.path / "exports").glob("*/"))[:_MAX_EXPORTS]:
        if manifest := read_data(folder / "manifest.json", notes):
            rows.append(_make_row(run, folder, manifest))
    head = [
        "export",
        "format",
        "size",
        "of the model",
        "metric",
        "of its source",
        "same answer",
        "computes in",
        "latency",
    ]
    table = render_table(head, rows, "Each export is compared with the run's model on examples of its data.")
    note_html = "".join(f'<p class="note">{escape_text(note)}</p>' for note in notes)
    return render_section("Exports", f'<div class="panel">{table}{note_html}</div>' if rows or notes else "")


def _make_row(run: RunData, folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    details = _to_mapping(manifest.get("details"))
    parity = _to_mapping(details.get("parity"))
    if parity and not isinstance(parity.get("metric"), str):  # several exports in one folder: each has its own
        parity = _to_mapping(next(iter(parity.values())))
    metric = run.get_metric(parity.get("metric"))
    values = [parse_number(parity.get(name)) for name in ("value", "source_value")]
    agreement = parse_number(parity.get("agreement"))
    size, model_size = _measure_files(folder, manifest), _measure_file(run.path / "model.safetensors")
    return [
        isolate_text(folder.name, 40),
        isolate_text(manifest.get("format", "–"), 40),
        format_bytes(size) if size else "–",
        f"{100 * size / model_size:.0f} %" if size and model_size else "–",
        *(escape_text(format_metric(metric, value)) if math.isfinite(value) else "–" for value in values),
        format_percent(agreement) if math.isfinite(agreement) else "–",
        _describe_census(_to_mapping(details.get("census"))),
        _describe_latency(details),
    ]


def _measure_files(folder: Path, manifest: Mapping[str, Any]) -> int:
    """Return the bytes of the files of an export that are in its folder."""
    names = list(_to_mapping(manifest.get("files")))[:_MAX_FILES]
    return sum(_measure_file(folder / name) for name in names if ".." not in name and not name.startswith("/"))


def _measure_file(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() and not path.is_symlink() else 0
    except (OSError, ValueError):
        return 0


def _describe_census(census: Mapping[str, Any]) -> str:
    """Return the share of multiply-adds in each number format."""
    shares = {str(kind): parse_number(share) for kind, share in list(_to_mapping(census.get("shares")).items())[:6]}
    texts = [
        f"{100 * share:.1f} % {kind}" for kind, share in sorted(shares.items(), key=lambda item: -item[1]) if share > 0
    ]
    return isolate_text(", ".join(texts), 120) if texts else "–"


def _describe_latency(details: Mapping[str, Any]) -> str:
    """Return the latencies that were measured for the choice of the format."""
    details = _to_mapping(details.get("auto")) or details
    choices, measured = _to_mapping(details.get("choices")), details.get("measured")
    texts = []
    for batch, name in list(choices.items())[:4]:
        rows = measured if isinstance(measured, list) else []
        row = next((row for row in rows if isinstance(row, dict) and row.get("name") == name), {})
        figures = _to_mapping(_to_mapping(row.get("batches")).get(batch))
        latency = parse_number(_to_mapping(figures.get("latency_ms")).get("p50"))
        if math.isfinite(latency):
            texts.append(f"{latency:.3g} ms at batch {batch} ({name})")
    return isolate_text(", ".join(texts), 160) if texts else "–"


def _to_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
