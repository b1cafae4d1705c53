"""Read what the trials of a search have reached, and choose the best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dnntrain.errors import CheckpointError
from dnntrain.protocols import MetricInfo
from dnntrain.sweep.search_log import SearchLog
from dnntrain.sweep.sweep_directory import Trial
from dnntrain.training.metrics_writer import read_rows
from dnntrain.utils.json_files import read_json


def read_results(folder: Path, metrics: Sequence[MetricInfo]) -> list[float]:
    """Return the value of each metric of a finished run.

    A metric of the task is its best value on the validation split, or that of the evaluation with
    the best first metric. Raises CheckpointError if the run does not have it.
    """
    result = read_json(folder / "result.json")
    rows = [row for row in read_rows(folder / "metrics.jsonl") if row.get("split") == "val"]
    best_step = result.get("best_step")
    values = []
    for metric in metrics:
        value = result.get("best") if metric.name == result.get("metric") else result.get(metric.name)
        if value is None:
            value = next((row.get(metric.name) for row in reversed(rows) if row.get("step") == best_step), None)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(
                f"{folder} has no {metric.name}", "train it with a validation split, or name another metric"
            )
        values.append(float(value))
    return values


def choose_winner(trials: Sequence[Trial], log: SearchLog, metrics: Sequence[MetricInfo]) -> list[int]:
    """Return the numbers of the best trials, from 0: one for one metric, the Pareto front for several."""
    results = {
        event["tell"]: tuple(metric.sign * value for metric, value in zip(metrics, event["results"], strict=True))
        for event in log.events
        if "tell" in event and event["results"] is not None
    }
    if len(metrics) == 1:
        return sorted(results, key=lambda number: (results[number], -number), reverse=True)[:1]
    return [number for number in sorted(results) if not _is_dominated(results[number], list(results.values()))]


def _is_dominated(values: tuple[float, ...], others: Sequence[tuple[float, ...]]) -> bool:
    """Return True if another point is at least as good in all values, and better in one."""
    return any(
        other != values and all(theirs >= ours for theirs, ours in zip(other, values, strict=True)) for other in others
    )
