"""Estimate how much a difference depends on the examples that happen to be in the test set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dnntrain.errors import DataError
from dnntrain.inference.evaluate_run import load_data_splits
from dnntrain.inference.load import LoadedModel, load_run
from dnntrain.protocols import Batch, Metric, ModelSpec, RowMetric, Task

_NUM_RESAMPLES = 500


def compute_example_sums(run: Path, metric_name: str, trust: bool = False) -> NDArray[np.float64]:
    """Return the sums of the metric for each test example, [n, width], of the model of `run`.

    `trust` lets the run use the code that it names.
    """
    return compute_sums_of_model(load_run(run, trust=trust), metric_name)


def compute_sums_of_model(loaded_model: LoadedModel, metric_name: str) -> NDArray[np.float64]:
    """Return the sums of the metric for each test example, [n, width], of a loaded model.

    Raises DataError if there are none.
    """
    split, task = load_data_splits(loaded_model)["test"], loaded_model.config.task
    metric = find_task_metric(task, metric_name, loaded_model.spec)
    rows = []
    with torch.no_grad():
        for batch in split.make_batches(loaded_model, loaded_model.config.eval.batch_size):
            outputs = loaded_model.compute_batch_outputs(batch).float()
            rows.append(_sum_by_example(task, metric, outputs, batch, loaded_model.spec).double().cpu().numpy())
    if not rows:
        raise DataError("the data have no test examples", "choose data with a test split")
    return np.concatenate(rows)


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


def estimate_test_set_error(
    sums_a: Sequence[NDArray[np.float64]], sums_b: Sequence[NDArray[np.float64]], metric: Metric | RowMetric | None
) -> float:
    """Return the standard error of the mean difference over test sets of this size.

    A paired bootstrap: each resample draws the same examples for all runs. `sums_a` and `sums_b`
    hold [n, width] for each run. Source: Efron and Tibshirani, 1993.
    """
    num_examples = len(sums_a[0])
    counts = np.random.default_rng(0).multinomial(num_examples, [1 / num_examples] * num_examples, _NUM_RESAMPLES)

    def compute_values(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([compute_value(sums, row, metric) for row in counts])

    differences = [compute_values(b) - compute_values(a) for a, b in zip(sums_a, sums_b, strict=True)]
    return float(np.mean(differences, axis=0).std(ddof=1))
