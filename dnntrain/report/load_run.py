"""Read a run directory as hostile data: regular files only, sizes capped, types checked.

Invalid content is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnntrain.errors import ConfigError
from dnntrain.protocols import LOSS, MetricInfo
from dnntrain.report.integrity import check_metrics
from dnntrain.report.load_metrics import MAX_METRICS_BYTES, Event, read_metrics
from dnntrain.report.series import Series
from dnntrain.report.untrusted_files import read_data, read_text
from dnntrain.utils.files import MARKER_FILES, is_run_directory

#: The largest text file that is read, in bytes; the deepest nesting of YAML; the most metrics of a task.
_MAX_TEXT_BYTES = 2**18
_MAX_DEPTH = 32
_MAX_METRICS = 40


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
        return read_metric_infos(self.plan)

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
    notes += check_metrics(path, result, MAX_METRICS_BYTES)
    series, events, texts, rows = read_metrics(path / "metrics.jsonl", notes)
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
        overrides=tuple((read_text(path / "overrides.txt", _MAX_TEXT_BYTES) or "").splitlines()),
        notes=tuple(notes),
    )


def read_metric_infos(plan: Mapping[str, Any]) -> tuple[MetricInfo, ...]:
    """Return the metrics that a plan.json describes."""
    items = plan.get("metrics")
    infos = [_read_metric_info(item) for item in items[:_MAX_METRICS]] if isinstance(items, list) else []
    return tuple(info for info in infos if info is not None)


def _read_metric_info(item: object) -> MetricInfo | None:
    if not isinstance(item, dict):
        return None
    name, higher_is_better, unit = item.get("name"), item.get("higher_is_better"), item.get("unit")
    if not isinstance(name, str) or not isinstance(higher_is_better, bool) or not isinstance(unit, str):
        return None
    return MetricInfo(name[:40], higher_is_better, unit[:20])


def _read_config(path: Path, notes: list[str]) -> tuple[tuple[str, str], ...]:
    """Return config.yaml as (dotted key, value) pairs.

    A file that would grow without bound when loaded is skipped.
    """
    import yaml

    text = read_text(path, _MAX_TEXT_BYTES)
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
