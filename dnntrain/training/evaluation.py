"""Metrics of a model on a split: every example once, sums on the device, one transfer at the end."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dnntrain.input.source import DataSet, Source
from dnntrain.protocols import Batch

ComputeOutputs = Callable[[Batch], Tensor]
Reduce = Callable[[Tensor], Tensor]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    outputs: ComputeOutputs,
    batches: Iterable[Batch],
    reduce: Reduce,
    device: str,
    *,
    should_count: bool = True,
    rounds: int = 0,
    empty: Batch | None = None,
) -> dict[str, float | int]:
    """{"loss", "accuracy", "examples"} over all `batches` of all ranks; the model is in eval mode meanwhile.

    Only ranks that `counts` add to the sums. Where ranks compute together, each calls the model `rounds` times, the last ones with `empty`.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device="cpu" if device == "mps" else device)
    batch_count = 0
    for batch in batches:
        batch_count += 1
        logits = outputs(batch).float()
        loss = cross_entropy(logits, batch.targets, reduction="sum")
        correct = (logits.argmax(1) == batch.targets).sum()
        sums += torch.stack([loss.double(), correct.double(), torch.full_like(loss, len(batch)).double()]).to(
            sums.device
        )
    for _ in range(rounds - batch_count):
        assert empty is not None
        outputs(empty)
    model.train(was_training)
    loss_sum, correct_sum, count = reduce(sums if should_count else torch.zeros_like(sums)).tolist()
    if not count:
        return {"loss": float("nan"), "accuracy": float("nan"), "examples": 0}
    return {"loss": loss_sum / count, "accuracy": correct_sum / count, "examples": int(count)}


@dataclass(frozen=True)
class Predictions:
    """For n examples: logarithms of the class probabilities [n, classes], labels [n], each example's number in its source [n]."""

    log_probabilities: Tensor
    labels: Tensor
    index: Tensor


@torch.no_grad()
def compute_predictions(model: nn.Module, outputs: ComputeOutputs, batches: Iterable[Batch]) -> Predictions:
    """The log-probabilities of every example, on the host."""
    was_training = model.training
    model.eval()
    rows = [
        (outputs(batch).float().log_softmax(1).cpu(), batch.targets.cpu(), torch.from_numpy(batch.index))
        for batch in batches
    ]
    model.train(was_training)
    log_probabilities, labels, index = (torch.cat(column) for column in zip(*rows, strict=True))
    return Predictions(log_probabilities, labels, index)


def compute_confusion(predictions: Predictions, classes: int) -> Tensor:
    """int64 [classes, classes]: rows are the true classes, columns the predicted ones."""
    cells = predictions.labels * classes + predictions.log_probabilities.argmax(1)
    return torch.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def summarize_predictions(
    predictions: Predictions, split: str, dataset: DataSet, source: Source, samples: int
) -> dict[str, Any]:
    """evaluation.json: loss, accuracy, confusion matrix, and the `samples` most wrong examples as small pictures."""
    probabilities, labels = predictions.log_probabilities.exp(), predictions.labels
    predicted_labels = probabilities.argmax(1)
    wrong_rows = (predicted_labels != labels).nonzero()[:, 0]
    wrong_rows = wrong_rows[probabilities.gather(1, predicted_labels[:, None])[wrong_rows, 0].argsort(descending=True)][
        :samples
    ]
    return {
        "split": split,
        "examples": len(labels),
        "loss": float(-predictions.log_probabilities.gather(1, labels[:, None]).double().mean()),
        "accuracy": float((predicted_labels == labels).double().mean()),
        "class_names": list(dataset.class_names),
        "confusion": compute_confusion(predictions, len(dataset.class_names)).tolist(),
        "wrong": [
            {
                "name": source.describe(int(predictions.index[row])),
                "label": int(labels[row]),
                "predicted": int(predicted_labels[row]),
                "probability": round(float(probabilities[row, predicted_labels[row]]), 6),
                "image": encode_png_base64(source.read(int(predictions.index[row]))),
            }
            for row in wrong_rows.tolist()
        ],
    }


def encode_png_base64(image: Tensor) -> str:
    """A uint8 image [c, h, w] with 1 or 3 channels as base64 PNG, at most 96 pixels a side."""
    from PIL import Image

    array = image.permute(1, 2, 0).numpy()
    picture = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array[:, :, :3])
    picture.thumbnail((96, 96))
    file = BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
