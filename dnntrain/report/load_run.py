"""Read a run directory as hostile data: regular files only, sizes capped, types checked.

Invalid content is skipped.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

from dnntrain.errors import ConfigError
from dnntrain.protocols import LOSS, MetricInfo
from dnntrain.report.integrity import check_metrics, check_seal
from dnntrain.report.series import Series
from dnntrain.utils.files import MARKER_FILES, is_run_directory, open_file
from dnntrain.utils.sealed_json import SEAL

#: The largest sizes that are read, in bytes. The rest of a longer metrics.jsonl is skipped, and the
#: report says so.
_MAX_JSON_BYTES = 64 * 2**20
_MAX_TEXT_BYTES = 2**18
_MAX_METRICS_BYTES = 2**30
_MAX_LINE_BYTES = 2**16
_MAX_SERIES = 64
_MAX_NAMES = 1000
_MAX_EVENTS = 100
_MAX_DEPTH = 32
_MAX_TEXTS = 20
_MAX_TEXT_CHARACTERS = 1000
_MAX_METRICS = 40

_AXES = ("step", "epoch", "examples", "wall_s", "split")


@dataclass(frozen=True)
class Event:
    """An event of the run: early stopping, a rollback, and the like."""

    step: float
    name: str
    reason: str


@dataclass(frozen=True)
class RunData:
    """The content of a run directory.

    Missing or damaged files are empty values; `notes` lists skipped content. `texts` are those that the
    model wrote at its evaluations, with their steps.
    """

    path: Path
    series: Mapping[tuple[str, str], Series]
    events: tuple[Event, ...]
    texts: tuple[tuple[float, str], ...]
    rows: int
    result: Mapping[str, Any]
    plan: Mapping[str, Any]
    environment: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    config: tuple[tuple[str, str], ...]
    overrides: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The run's name, else the last parts of its path."""
        name = self.plan.get("name")
        return name if isinstance(name, str) and name.strip() else "/".join(self.path.parts[-2:])

    @property
    def status(self) -> str:
        """The status of result.json; "unfinished" if the run has none."""
        status = self.result.get("status")
        return status[:40] if isinstance(status, str) and status else "unfinished"

    @property
    def metrics(self) -> tuple[MetricInfo, ...]:
        """The metrics of the run's task, from plan.json."""
        items = self.plan.get("metrics")
        infos = [_read_metric_info(item) for item in items[:_MAX_METRICS]] if isinstance(items, list) else []
        return tuple(info for info in infos if info is not None)

    @property
    def metric(self) -> MetricInfo:
        """The validation metric that chose the best weights."""
        return self.get_metric(self.result.get("metric"))

    @property
    def headline(self) -> MetricInfo:
        """The main metric: the one that chose the best weights, unless it is the loss and there are others."""
        if self.metric != LOSS:
            return self.metric
        return next((info for info in self.metrics if info != LOSS), LOSS)

    def get_metric(self, name: object) -> MetricInfo:
        """Return the metric called `name`; if the run does not know it, the first one of its plan."""
        return next((info for info in self.metrics if info.name == name), (*self.metrics, LOSS)[0])

    def get_series(self, split: str, name: str) -> Series:
        """Return one series, empty if the run has none."""
        return self.series.get((split, name)) or Series()


def read_run(path: Path) -> RunData:
    """Read a run directory.

    Raises ConfigError if `path` is not one, and CheckpointError if a file does not match its
    checksum.
    """
    if not is_run_directory(path):
        raise ConfigError(
            f"{path} is not a run directory",
            f"a run directory contains {', '.join(MARKER_FILES[:-1])} or {MARKER_FILES[-1]}",
        )
    notes: list[str] = []
    result = read_data(path / "result.json", notes)
    notes += check_metrics(path, result, _MAX_METRICS_BYTES)
    series, events, texts, rows = _read_metrics(path / "metrics.jsonl", notes)
    return RunData(
        path=path.absolute(),
        series=series,
        events=events,
        texts=texts,
        rows=rows,
        result=result,
        plan=read_data(path / "plan.json", notes),
        environment=read_data(path / "env.json", notes),
        evaluation=read_data(path / "evaluation.json", notes),
        config=_read_config(path / "config.yaml", notes),
        overrides=tuple((_read_text(path / "overrides.txt", _MAX_TEXT_BYTES) or "").splitlines()),
        notes=tuple(notes),
    )


def _read_metric_info(item: object) -> MetricInfo | None:
    if not isinstance(item, dict):
        return None
    name, higher_is_better, unit = item.get("name"), item.get("higher_is_better"), item.get("unit")
    if not isinstance(name, str) or not isinstance(higher_is_better, bool) or not isinstance(unit, str):
        return None
    return MetricInfo(name[:40], higher_is_better, unit[:20])


def parse_number(value: Any) -> float:
    """Return `value` as a float; NaN if it is not a number.

    Of texts, only "nan", "inf" and "-inf" are numbers.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    if isinstance(value, str) and value not in ("inf", "-inf"):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _try_open(path: Path) -> IO[bytes] | None:
    """Return an open regular file, or None."""
    try:
        return open_file(path)
    except (OSError, ValueError):
        return None


def _read_text(path: Path, limit_bytes: int) -> str | None:
    """Return the file as text, with bytes replaced that are not UTF-8.

    None if it is missing, not a file, or too large.
    """
    file = _try_open(path)
    if file is None:
        return None
    with file:
        try:
            data = file.read(limit_bytes + 1)
        except OSError:
            return None
    return None if len(data) > limit_bytes else data.decode("utf-8", errors="replace")


def read_data(path: Path, notes: list[str]) -> Mapping[str, Any]:
    """Return the object in a JSON file; empty, with a note if it is damaged or too large."""
    text = _read_text(path, _MAX_JSON_BYTES)
    value = None if text is None else _parse_json(text)
    if isinstance(value, dict):
        check_seal(path, value)
        return {key: item for key, item in value.items() if key != SEAL}
    if path.exists():
        notes.append(f"{path.name} is damaged or too large, and was skipped")
    return {}


def _parse_json(text: str) -> Any:
    """Parse JSON; return None if it is invalid.

    A hostile text may also nest too deep or hold numbers that are too long.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


_Metrics: TypeAlias = tuple[dict[tuple[str, str], Series], tuple[Event, ...], tuple[tuple[float, str], ...], int]


def _read_metrics(path: Path, notes: list[str]) -> _Metrics:
    """Return the series by (split, name), the events, the texts, and the number of rows."""
    splits: dict[str, dict[str, Series | None]] = {}
    events: list[Event] = []
    texts: deque[tuple[float, str]] = deque(maxlen=_MAX_TEXTS)
    rows = damaged_count = series_count = 0
    for line in _read_lines(path, notes):
        row = _parse_json(line.decode("utf-8", errors="replace"))
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
    file = _try_open(path)
    if file is None:
        return
    total, inside_long = 0, False
    with file:
        while line := file.readline(_MAX_LINE_BYTES):
            total += len(line)
            if total > _MAX_METRICS_BYTES:
                notes.append(f"{path.name} is read up to {_MAX_METRICS_BYTES >> 20} MiB only")
                return
            is_whole = line.endswith(b"\n")
            if is_whole and not inside_long and line.strip():
                yield line
            inside_long = not is_whole


def _read_config(path: Path, notes: list[str]) -> tuple[tuple[str, str], ...]:
    """Return config.yaml as (dotted key, value) pairs.

    A file that would grow without bound when loaded is skipped.
    """
    import yaml

    text = _read_text(path, _MAX_TEXT_BYTES)
    if text is None:
        return ()
    try:
        _check_plain_yaml(yaml.parse(text, Loader=yaml.SafeLoader))
        return tuple(_flatten(yaml.safe_load(text)))[:2000]
    except (ValueError, RecursionError, yaml.YAMLError):
        notes.append(f"{path.name} cannot be shown")
        return ()


def _check_plain_yaml(events: Iterator[Any]) -> None:
    """Check YAML for aliases and deep nesting, which can cost without bound.

    Raises ValueError at the first one.
    """
    import yaml

    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > _MAX_DEPTH:
            raise ValueError("aliases or deep nesting")


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
