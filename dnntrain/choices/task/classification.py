"""Classification: each example is of one class, and the model gives a logit for each class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dnntrain.config.fields import Literal
from dnntrain.errors import ConfigError
from dnntrain.protocols import (
    Batch,
    DescribeExample,
    InputSpec,
    Metric,
    ModelSpec,
    OutputSpec,
    Predictions,
    TargetKind,
    TargetSpec,
    Task,
    TaskFeature,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Classification(Task):
    """Cross-entropy loss and accuracy of logits for one class per example.

    The loss is the cross-entropy of softmax(logits) with class indices or class probabilities. The
    accuracy is the share of examples whose most probable class is the right one.
    """

    metric: Literal["accuracy", "loss"] = "accuracy"  # default metric of the task; eval.metric follows it

    features: ClassVar[frozenset[TaskFeature]] = frozenset(
        {TaskFeature.CLASS_LOGITS, TaskFeature.MIXABLE_TARGETS, TaskFeature.SMOOTHABLE_TARGETS}
    )
    agreement: ClassVar[str] = "same class"

    def build(self, inputs: InputSpec, targets: TargetSpec) -> OutputSpec:
        if targets.kind is not TargetKind.CLASS:
            raise ConfigError(
                f"task=classification needs {TargetKind.CLASS.value}; the data have {targets.kind.value}",
                "choose other data, or the task for these data, such as task=regression",
            )
        return OutputSpec(targets.names, (len(targets.names),), "logits")

    def list_metrics(self, spec: ModelSpec | None = None) -> tuple[Metric, ...]:
        return (Metric("accuracy", higher_is_better=True, unit="%", sums=count_correct, value=divide, width=2),)

    def compute_losses(self, outputs: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        return _compute_cross_entropy(outputs, batch, "none", label_smoothing)

    def loss_sum(self, outputs: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """Return the sum in one operation. Outputs in half precision are widened first."""
        return _compute_cross_entropy(outputs, batch, "sum", label_smoothing)

    def predict(self, outputs: Tensor) -> Tensor:
        """Return the logarithms of the class probabilities, float [n, classes]."""
        return outputs.float().log_softmax(1)

    def summarize(
        self, predictions: Predictions, spec: ModelSpec, max_samples: int, describe: DescribeExample
    ) -> dict[str, Any]:
        """Return loss, accuracy, the confusion matrix and the worst mistakes.

        "wrong" lists up to `max_samples` mistakes, the most probable wrong class first.
        """
        probabilities, labels = predictions.values.exp(), predictions.targets
        predicted_labels = probabilities.argmax(1)
        wrong_rows = (predicted_labels != labels).nonzero()[:, 0]
        wrong_probabilities = probabilities.gather(1, predicted_labels[:, None])[wrong_rows, 0]
        wrong_rows = wrong_rows[wrong_probabilities.argsort(descending=True)][:max_samples]
        return {
            "examples": len(labels),
            "loss": float(-predictions.values.gather(1, labels[:, None]).double().mean()),
            "accuracy": float((predicted_labels == labels).double().mean()),
            "class_names": list(spec.targets.names),
            "confusion": count_confusion(labels, predicted_labels, len(spec.targets.names)).tolist(),
            "wrong": [
                {
                    **describe(int(predictions.index[row])),
                    "label": int(labels[row]),
                    "predicted": int(predicted_labels[row]),
                    "probability": round(float(probabilities[row, predicted_labels[row]]), 6),
                }
                for row in wrong_rows.tolist()
            ],
        }

    def format_predictions(self, outputs: Tensor, spec: ModelSpec, top: int) -> Iterator[dict[str, Any]]:
        """Yield {"class", "probability", "top": [[class, probability] …]} for each example.

        The most probable class is first.
        """
        probabilities = outputs.float().softmax(1).cpu()
        best = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
        for values, classes in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            top_classes = [
                [spec.output.names[number], round(value, 6)] for number, value in zip(classes, values, strict=True)
            ]
            yield {"class": top_classes[0][0], "probability": top_classes[0][1], "top": top_classes}

    def agrees(self, outputs: Tensor, expected: Tensor) -> Tensor:
        return outputs.argmax(1) == expected.argmax(1)


def _compute_cross_entropy(outputs: Tensor, batch: Batch, reduction: str, label_smoothing: float) -> Tensor:
    from torch.nn.functional import cross_entropy  # here, because settings are checked before torch is imported

    return cross_entropy(outputs.float(), batch.targets, reduction=reduction, label_smoothing=label_smoothing)


def count_correct(outputs: Tensor, batch: Batch) -> Tensor:
    """Return [2]: the number of correct predictions, and the number of examples."""
    import torch

    correct = (outputs.argmax(1) == batch.targets).sum()
    return torch.stack([correct, torch.full_like(correct, len(batch))])


def divide(sums: Sequence[float]) -> float:
    """Return the first of two sums over the second; NaN if that is zero."""
    return sums[0] / sums[1] if sums[1] else float("nan")


def count_confusion(labels: Tensor, predicted_labels: Tensor, num_classes: int) -> Tensor:
    """Return int64 [classes, classes]: rows are the true classes, columns the predicted ones."""
    import torch

    cells = labels * num_classes + predicted_labels
    return torch.bincount(cells, minlength=num_classes * num_classes).reshape(num_classes, num_classes)
