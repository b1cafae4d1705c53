"""Read the rows of metrics.jsonl: series by split and name, events and texts."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from dnntrain.report.series import Series
from dnntrain.report.untrusted_files import parse_json, parse_number, try_open

#: The largest sizes that are read, in bytes and numbers. The rest of a longer metrics.jsonl is
#: skipped, and the report says so.
MAX_METRICS_BYTES = 2**30
_MAX_LINE_BYTES = 2**16
_MAX_SERIES = 64
_MAX_NAMES = 1000
_MAX_EVENTS = 100
_MAX_TEXTS = 20
_MAX_TEXT_CHARACTERS = 1000

_AXES = ("step", "epoch", "examples", "wall_s", "split")


@dataclass(frozen=True)
class Event:
    """An event of the run: early stopping, a rollback, and the like."""

    step: float
    name: str
    reason: str


_Metrics: TypeAlias = tuple[dict[tuple[str, str], Series], tuple[Event, ...], tuple[tuple[float, str], ...], int]


def read_metrics(path: Path, notes: list[str]) -> _Metrics:
    """Return the series by (split, name), the events, the texts, and the number of rows."""
    splits: dict[str, dict[str, Series | None]] = {}
    events: list[Event] = []
    texts: deque[tuple[float, str]] = deque(maxlen=_MAX_TEXTS)
    rows = damaged_count = series_count = 0
    for line in _read_lines(path, notes):
        row = parse_json(line.decode("utf-8", errors="replace"))
        step = parse_number(row.get("step")) if isinstance(row, dict) else math.nan
        if not isinstance(row, dict) or not math.isfinite(step):
            damaged_count += 1
            continue
        rows += 1
        split, wall_s = str(row.get("split"))[:40], parse_number(row.get("wall_s"))
        if split == "event":
            if len(events) < _MAX_EVENTS:
                events.append(Event(step, str(row.get("event", "event"))[:80], str(row.get("reason", ""))[:240]))
            continue
        if split == "sample":
            texts.append((step, str(row.get("text", ""))[:_MAX_TEXT_CHARACTERS]))
            continue
        columns = splits.setdefault(split, dict.fromkeys(_AXES)) if len(splits) < _MAX_SERIES else splits.get(split, {})
        for name, value in row.items():
            if name not in columns:
                if len(columns) >= _MAX_NAMES:
                    continue
                # None marks a column that is not a series: an axis, a text, or one too many.
                columns[name] = Series() if series_count < _MAX_SERIES and _is_number(value) else None
                series_count += columns[name] is not None
            series = columns[name]
            if series is not None:
                series.add(step, wall_s, value if type(value) is float else parse_number(value))
    if damaged_count:
        notes.append(f"{damaged_count} damaged lines of {path.name} were skipped")
    series_by_key = {
        (split, name[:80]): item
        for split, columns in splits.items()
        for name, item in columns.items()
        if item is not None
    }
    for item in series_by_key.values():
        item.flush()
    return series_by_key, tuple(events), tuple(texts), rows


def _is_number(value: Any) -> bool:
    """Return whether a value is a number, or the stand-in for a non-finite one: "nan", null."""
    return value is None or value == "nan" or isinstance(value, float) or not math.isnan(parse_number(value))


def _read_lines(path: Path, notes: list[str]) -> Iterator[bytes]:
    """Yield the complete lines of a file; an incomplete last line and overlong lines are skipped."""
    file = try_open(path)
    if file is None:
        return
    total, inside_long = 0, False
    with file:
        while line := file.readline(_MAX_LINE_BYTES):
            total += len(line)
            if total > MAX_METRICS_BYTES:
                notes.append(f"{path.name} is read up to {MAX_METRICS_BYTES >> 20} MiB only")
                return
            is_whole = line.endswith(b"\n")
            if is_whole and not inside_long and line.strip():
                yield line
            inside_long = not is_whole
