"""Estimate how much a difference depends on the examples that happen to be in the test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dnntrain.errors import DataError
from dnntrain.inference.evaluate_run import load_data_splits
from dnntrain.inference.load import LoadedModel, load_run
from dnntrain.protocols import Batch, Metric, ModelSpec, RowMetric, Task
from dnntrain.utils.rng import Index

_NUM_RESAMPLES = 500


@dataclass(frozen=True)
class ExampleSums:
    """The sums of a metric for each test example of a model.

    values  [n, width]
    index   int64 [n], the number of each example in its data set, in which eval.max_examples chooses
    total   examples of that data set
    """

    values: NDArray[np.float64]
    index: Index
    total: int


def measure_test_set_error(pairs: Sequence[tuple[Path, Path]], metric_name: str, trust: bool = False) -> float:
    """Return the standard error of the mean difference of pairs of runs over test sets of this size.

    A paired bootstrap: each resample draws the same examples for all runs, by their numbers. `trust`
    lets the runs use the code that they name. Source: Efron and Tibshirani, 1993.

    Raises DataError if the runs have no test examples, or test sets of different sizes.
    """
    differences, totals = [], set()
    for runs in pairs:
        values = []
        for run in runs:
            loaded = load_run(run, trust=trust)
            sums = compute_sums_of_model(loaded, metric_name)
            totals.add(sums.total)
            if len(totals) > 1:
                raise DataError("the runs have test sets of different sizes", "compare runs on the same data")
            values.append(resample_values(sums, find_task_metric(loaded.config.task, metric_name, loaded.spec)))
        differences.append(values[1] - values[0])
    return float(np.mean(differences, axis=0).std(ddof=1))


def compute_sums_of_model(loaded_model: LoadedModel, metric_name: str) -> ExampleSums:
    """Return the sums of the metric for each test example of a loaded model.

    Raises DataError if there are none.
    """
    split, task = load_data_splits(loaded_model)["test"], loaded_model.config.task
    metric = find_task_metric(task, metric_name, loaded_model.spec)
    rows, index = [], []
    with torch.no_grad():
        for batch in split.make_batches(loaded_model, loaded_model.config.eval.batch_size):
            outputs = loaded_model.compute_batch_outputs(batch).float()
            rows.append(_sum_by_example(task, metric, outputs, batch, loaded_model.spec).double().cpu().numpy())
            index.append(batch.index)
    if not rows:
        raise DataError("the data have no test examples", "choose data with a test split")
    return ExampleSums(np.concatenate(rows), np.concatenate(index), len(split.parts[0][0]))


def find_task_metric(task: Task, name: str, spec: ModelSpec) -> Metric | RowMetric | None:
    """Return the metric of the task called `name`; None for the loss."""
    metrics: list[Metric | RowMetric] = [*task.list_metrics(spec), *task.list_row_metrics(spec)]
    return next((metric for metric in metrics if metric.name == name), None)


def compute_value(sums: NDArray[np.float64], counts: NDArray[np.int64], metric: Metric | RowMetric | None) -> float:
    """Return the metric over examples that come `counts` [n] times; their sums are [n, width]."""
    if isinstance(metric, RowMetric):
        return metric.value(np.repeat(sums, counts, axis=0))
    totals = counts @ sums
    return float(totals[0] / totals[1]) if metric is None else float(metric.value(totals.tolist()))


def _sum_by_example(
    task: Task, metric: Metric | RowMetric | None, outputs: torch.Tensor, batch: Batch, spec: ModelSpec
) -> torch.Tensor:
    """Return [n, width]; without a metric the loss and its weight."""
    if metric is None:
        loss = task.compute_losses(outputs, batch).double()
        weights = [task.count_targets(_select_example(batch, row), spec).to(loss) for row in range(len(batch))]
        return torch.stack([loss, torch.stack(weights)], dim=1)
    if isinstance(metric, RowMetric):
        return metric.rows(outputs, batch)
    rows = []
    for row in range(len(batch)):
        rows.append(metric.sums(outputs[row : row + 1], _select_example(batch, row)))
    return torch.stack(rows)


def _select_example(batch: Batch, number: int) -> Batch:
    """Return the batch of one example."""
    row = slice(number, number + 1)
    return Batch(batch.inputs[row], batch.targets[row], batch.index[row], batch.position[row], batch.epoch)


def resample_values(sums: ExampleSums, metric: Metric | RowMetric | None) -> NDArray[np.float64]:
    """Return the metric over each resample of the test set, [500]; models with the same `total` get the same ones."""
    return np.array([compute_value(sums.values, select_counts(row, sums), metric) for row in _draw_counts(sums.total)])


def select_counts(counts: NDArray[np.int64], sums: ExampleSums) -> NDArray[np.int64]:
    """Return how often each evaluated example comes in a resample, [n], of the counts [total] of the data set.

    Few examples of a large data set may all be left out; they then come once.
    """
    chosen = counts[sums.index]
    return chosen if chosen.any() else np.ones_like(chosen)


@lru_cache(maxsize=1)
def _draw_counts(total: int) -> NDArray[np.int64]:
    """Return how often each example comes in each resample, [500, total]."""
    return np.random.default_rng(0).multinomial(total, np.full(total, 1 / total), _NUM_RESAMPLES)
