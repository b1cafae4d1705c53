"""Read what the trials of a search have reached, and choose the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from dnntrain.errors import CheckpointError
from dnntrain.protocols import MetricInfo
from dnntrain.sweep.search_log import SearchLog
from dnntrain.sweep.trial_list import list_fold_folders
from dnntrain.training.metrics_writer import read_rows
from dnntrain.utils.json_files import read_json


def read_results(folder: Path, metrics: Sequence[MetricInfo]) -> list[float]:
    """Return the value of each metric of a finished run, or its mean over the runs of a cross-validation.

    A metric of the task is its best value on the validation split. Raises CheckpointError if a run does
    not have it.
    """
    runs = [_read_run(path, metrics) for path in list_fold_folders(folder)]
    return [math.fsum(values) / len(values) for values in zip(*runs, strict=True)]


def _read_run(folder: Path, metrics: Sequence[MetricInfo]) -> list[float]:
    result = read_json(folder / "result.json")
    rows = [row for row in read_rows(folder / "metrics.jsonl") if row.get("split") == "val"]
    values = []
    for metric in metrics:
        value = result.get("best") if metric.name == result.get("metric") else result.get(metric.name)
        if value is None:
            value = _find_best(metric, [row.get(metric.name) for row in rows])
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(
                f"{folder} has no {metric.name}", "train it with a validation split, or name another metric"
            )
        values.append(float(value))
    return values


def _find_best(metric: MetricInfo, values: Sequence[object]) -> float | None:
    """Return the best of the values that are numbers."""
    numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return max((number for number in numbers if not math.isnan(number)), key=lambda x: metric.sign * x, default=None)


def list_results(log: SearchLog) -> dict[int, list[float]]:
    """Return trial → values of the metrics, of the trials that have a result."""
    return {event["tell"]: event["results"] for event in log.events if event.get("results") is not None}


def choose_winner(log: SearchLog, metrics: Sequence[MetricInfo]) -> list[int]:
    """Return the numbers of the best trials, from 0: one for one metric, the Pareto front for several."""
    results = {
        number: tuple(metric.sign * value for metric, value in zip(metrics, values, strict=True))
        for number, values in list_results(log).items()
    }
    if len(metrics) == 1:
        return sorted(results, key=lambda number: (results[number], -number), reverse=True)[:1]
    return [number for number in sorted(results) if not _is_dominated(results[number], list(results.values()))]


def _is_dominated(values: tuple[float, ...], others: Sequence[tuple[float, ...]]) -> bool:
    """Return True if another point is at least as good in all values, and better in one."""
    return any(
        other != values and all(theirs >= ours for theirs, ours in zip(other, values, strict=True)) for other in others
    )
