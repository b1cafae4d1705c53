"""Show the clients of a federated run: bytes, privacy, class shares, and the metric of each client."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dnntrain.report.format import format_metric, format_percent, format_short
from dnntrain.report.html import isolate_text, render_pairs, render_section, render_table
from dnntrain.report.load_run import RunData
from dnntrain.report.untrusted_files import parse_number, read_data
from dnntrain.utils.units import format_bytes

_MAX_CLIENTS, _MAX_CLASSES = 100, 20


def render_clients(run: RunData) -> str:
    """Return the section of federated.json; empty without the file."""
    file = run.path / "federated.json"
    if not file.is_file():
        return ""
    data: Mapping[str, Any] = read_data(file, [])
    if not data:
        return ""
    table = _render_table(run, data)
    return render_section("Clients", render_pairs(_list_figures(run, data), "The clients of the run") + table)


def _list_figures(run: RunData, data: Mapping[str, Any]) -> list[tuple[str, str]]:
    figures = [
        ("algorithm", f"{data.get('algorithm')}, {data.get('partition')} partition"),
        ("clients", format_short(parse_number(data.get("clients")))),
        ("rounds", format_short(parse_number(data.get("rounds")))),
        ("sent to the server", _format_bytes(data.get("bytes_up"))),
        ("sent to clients", _format_bytes(data.get("bytes_down"))),
        (f"{data.get('metric')}, mean of clients", _format_value(run, data, "mean")),
        ("mean of the worst tenth", _format_value(run, data, "worst_tenth")),
        ("standard deviation between clients", _format_value(run, data, "deviation")),
    ]
    privacy = data.get("privacy")
    if isinstance(privacy, dict):
        epsilon, delta = parse_number(privacy.get("epsilon")), parse_number(privacy.get("delta"))
        spent = f"ε = {format_short(epsilon)} at δ = {delta:g}, {privacy.get('accountant')}"
        figures.append(("privacy", spent if math.isfinite(epsilon) else str(privacy.get("note"))))
    return [(name, value) for name, value in figures if value]


def _render_table(run: RunData, data: Mapping[str, Any]) -> str:
    """Return a row for each client: its examples, its metric, and its share of each class."""
    sizes, values, counts = (_to_list(data.get(name)) for name in ("sizes", "values", "class_counts"))
    names = _to_list(data.get("class_names"))[:_MAX_CLASSES] if counts else []
    rows = []
    for client, size in enumerate(sizes[:_MAX_CLIENTS]):
        value = parse_number(values[client]) if client < len(values) else math.nan
        client_counts = _to_list(counts[client])[: len(names)] if client < len(counts) else []
        total = max(1.0, parse_number(size))
        rows.append(
            [
                str(client),
                format_short(parse_number(size)),
                format_metric(run.metric, value) if math.isfinite(value) else "",
                *(format_percent(parse_number(count) / total) for count in client_counts),
                *[""] * (len(names) - len(client_counts)),
            ]
        )
    hidden = f"; {len(sizes) - len(rows)} more clients are in federated.json" if len(sizes) > len(rows) else ""
    header = ["client", "examples", isolate_text(data.get("metric"), 40), *(isolate_text(name, 30) for name in names)]
    return render_table(header, rows, f"Examples, metric and class shares of each client{hidden}") if rows else ""


def _to_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _format_bytes(value: Any) -> str:
    size = parse_number(value)
    return format_bytes(size) if 0 <= size < 1e18 else ""


def _format_value(run: RunData, data: Mapping[str, Any], name: str) -> str:
    value = parse_number(data.get(name))
    return format_metric(run.metric, value) if math.isfinite(value) else ""
