"""Measure a model on a split: every example once, sums on the device, one transfer at the end."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dnntrain.input.source import Source
from dnntrain.protocols import Batch, ModelSpec, Predictions, Task

ComputeOutputs = Callable[[Batch], Tensor]
Reduce = Callable[[Tensor], Tensor]


@torch.no_grad()
def evaluate(
    task: Task,
    spec: ModelSpec,
    model: nn.Module,
    compute_outputs: ComputeOutputs,
    batches: Iterable[Batch],
    reduce: Reduce,
    device: str,
    *,
    should_count: bool = True,
    rounds: int = 0,
    empty: Batch | None = None,
    positions: int = 0,
) -> dict[str, float | int]:
    """Return the loss, the task's metrics and "examples" over all `batches` of all ranks.

    The model is in eval mode meanwhile. Only ranks that `should_count` add to the sums. If ranks
    compute together, each calls the model `rounds` times, at the end with `empty`. Several ranks need
    `positions`, the number of examples of all of them, if a metric needs every example at once.
    """
    metrics, row_metrics = task.list_metrics(spec), task.list_row_metrics(spec)
    rows = [RowCollector(metric.width, positions) for metric in row_metrics]
    was_training = model.training
    model.eval()
    # The examples, the loss and its weight, then the sums of each metric.
    size = 3 + sum(metric.width for metric in metrics)
    sums = torch.zeros(size, dtype=torch.float64, device="cpu" if device == "mps" else device)
    batch_count = 0
    for batch in batches:
        batch_count += 1
        outputs = task.reduce_outputs(compute_outputs(batch), batch)
        loss = task.loss_sum(outputs, batch).double()
        counts = [torch.full_like(loss, len(batch)), task.count_targets(batch, spec).double()]
        metric_sums = [metric.sums(outputs, batch).double() for metric in metrics]
        for row_metric, collector in zip(row_metrics, rows, strict=True):
            collector.add(row_metric.rows(outputs, batch), batch)
        sums += torch.cat([torch.stack([counts[0], loss, counts[1]]), *metric_sums]).to(sums.device)
    for _ in range(rounds - batch_count):
        assert empty is not None
        compute_outputs(empty)
    model.train(was_training)
    examples, loss_sum, loss_weight, *rest = reduce(sums if should_count else torch.zeros_like(sums)).tolist()
    values: dict[str, float | int] = {"loss": loss_sum / loss_weight if loss_weight else float("nan")}
    for metric in metrics:
        values[metric.name] = metric.value(rest[: metric.width])
        rest = rest[metric.width :]
    for row_metric, collector in zip(row_metrics, rows, strict=True):
        values[row_metric.name] = row_metric.value(collector.join(reduce, device, should_count))
    return {**values, "examples": int(examples)}


class RowCollector:
    """Collects the rows of a RowMetric, and joins those of all ranks in the order of the examples.

    With `positions` each rank fills its rows of one table, whose sum over the ranks is complete.
    """

    def __init__(self, width: int, positions: int) -> None:
        self._width, self._positions = width, positions
        self._rows: list[Tensor] = [torch.empty(0, width, dtype=torch.float64)]
        self._places: list[NDArray[np.int64]] = []

    def add(self, rows: Tensor, batch: Batch) -> None:
        self._rows.append(rows.detach().cpu().double())
        self._places.append(batch.position)

    def join(self, reduce: Reduce, device: str, should_count: bool) -> NDArray[np.float64]:
        """Return float64 [examples, width]."""
        rows = torch.cat(self._rows)
        if not self._positions:
            return rows.numpy()
        table = torch.zeros(self._positions, self._width + 1, dtype=torch.float64)
        if should_count and self._places:
            places = torch.from_numpy(np.concatenate(self._places))
            table[places] = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
        table = reduce(table if device == "mps" else table.to(device)).cpu()
        return table[table[:, -1] > 0, :-1].numpy()


@torch.no_grad()
def compute_predictions(
    task: Task, model: nn.Module, compute_outputs: ComputeOutputs, batches: Iterable[Batch]
) -> Predictions:
    """Return the outputs of every example in the form that the task keeps, on the host."""
    was_training = model.training
    model.eval()
    rows = [
        (task.predict_batch(compute_outputs(batch), batch).cpu(), batch.targets.cpu(), torch.from_numpy(batch.index))
        for batch in batches
    ]
    model.train(was_training)
    values, targets, index = (torch.cat(column) for column in zip(*rows, strict=True))
    return Predictions(values, targets, index)


def describe_example(source: Source, number: int) -> Mapping[str, Any]:
    """Return the name of an example and, if it is an image, a small picture of it."""
    example = source.read(number)
    picture = {"image": encode_png_base64(example)} if example.ndim == 3 else {}
    return {"name": source.describe(number), **picture}


def encode_png_base64(image: Tensor) -> str:
    """Encode a uint8 image [c, h, w] with 1 or 3 channels as base64 PNG, at most 96 pixels a side."""
    from PIL import Image

    array = image.permute(1, 2, 0).numpy()
    picture = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array[:, :, :3])
    picture.thumbnail((96, 96))
    file = BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
