"""Measure a model on a split: every example once, sums on the device, one transfer at the end."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from typing import Any

import torch
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
) -> dict[str, float | int]:
    """Return the loss, the task's metrics and "examples" over all `batches` of all ranks.

    The model is in eval mode meanwhile. Only ranks that `should_count` add to the sums. If ranks
    compute together, each calls the model `rounds` times, at the end with `empty`.
    """
    metrics = task.list_metrics(spec)
    was_training = model.training
    model.eval()
    # The examples, the loss and its weight, then the sums of each metric.
    size = 3 + sum(metric.width for metric in metrics)
    sums = torch.zeros(size, dtype=torch.float64, device="cpu" if device == "mps" else device)
    batch_count = 0
    for batch in batches:
        batch_count += 1
        outputs = compute_outputs(batch).float()
        loss = task.loss_sum(outputs, batch).double()
        counts = [torch.full_like(loss, count) for count in (len(batch), task.loss_weight(len(batch), spec))]
        metric_sums = [metric.sums(outputs, batch).double() for metric in metrics]
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
    return {**values, "examples": int(examples)}


@torch.no_grad()
def compute_predictions(
    task: Task, model: nn.Module, compute_outputs: ComputeOutputs, batches: Iterable[Batch]
) -> Predictions:
    """Return the outputs of every example in the form that the task keeps, on the host."""
    was_training = model.training
    model.eval()
    rows = [
        (task.predict(compute_outputs(batch)).cpu(), batch.targets.cpu(), torch.from_numpy(batch.index))
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
