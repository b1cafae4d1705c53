"""Classification: each example is of one class, and the model gives a logit for each class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dnntrain.choices.task._class_losses import compute_class_losses
from dnntrain.choices.task._class_metrics import (
    CONFUSION_METRICS,
    compute_auroc,
    count_confusion,
    make_auroc,
    make_sum_metrics,
    measure_classes,
    measure_confusion,
)
from dnntrain.choices.task._class_weights import check_weights_file, check_weights_option, compute_class_weights
from dnntrain.config.fields import Literal, NonNegative
from dnntrain.errors import ConfigError
from dnntrain.protocols import (
    Batch,
    DescribeExample,
    InputSpec,
    Metric,
    ModelSpec,
    OutputSpec,
    Predictions,
    RowMetric,
    TargetKind,
    TargetSpec,
    Task,
    TaskFeature,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

#: The test split of more classes has no area under the ROC curve, unless `task.metrics` names it.
_MAX_AREAS = 100


@dataclass(frozen=True)
class Classification(Task):
    """A loss of logits for one class per example, and metrics of classes.

    The loss is the cross-entropy of softmax(logits) with class indices or class probabilities; focal:
    with (1 - probability)^gamma as a factor of each class (Lin et al., 2017); or bce: the sum over
    classes of the binary cross-entropies of sigmoid(logit). The accuracy is the share of examples whose
    most probable class is the right one.
    """

    metric: Literal[
        "accuracy",
        "loss",
        "top5",
        "balanced_accuracy",
        "macro_precision",
        "macro_recall",
        "macro_f1",
        "ece",
        "auroc",
    ] = "accuracy"  # default metric of the task; eval.metric follows it
    metrics: tuple[
        Literal["top5", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1", "ece", "auroc"],
        ...,
    ] = ()  # further metrics of each evaluation; the test of a run has all of them
    loss: Literal["cross_entropy", "focal", "bce"] = "cross_entropy"  # loss
    focal_gamma: NonNegative = 2.0  # exponent of loss=focal; 0: the cross-entropy
    class_weights: str = "none"  # weights of the classes in the loss: none, balanced, or a CSV file

    target_kind: ClassVar[TargetKind | None] = TargetKind.CLASS
    features: ClassVar[frozenset[TaskFeature]] = frozenset(
        {
            TaskFeature.CLASS_LOGITS,
            TaskFeature.MIXABLE_TARGETS,
            TaskFeature.SOFTMAX_LOGITS,
            TaskFeature.PASTABLE_TARGETS,
            TaskFeature.SMOOTHABLE_TARGETS,
        }
    )
    place_options: ClassVar[tuple[str, ...]] = ("class_weights",)
    agreement: ClassVar[str] = "same class"
    optional_metrics: ClassVar[tuple[str, ...]] = ("top5", *CONFUSION_METRICS, "ece", "auroc")

    def __post_init__(self) -> None:
        if self.focal_gamma != 2.0 and self.loss != "focal":
            raise ValueError(f"focal_gamma={self.focal_gamma:g} has no effect with loss={self.loss}; use loss=focal")
        check_weights_option("task.class_weights", self.class_weights)

    def check_files(self) -> None:
        check_weights_file("task.class_weights", self.class_weights)

    def build(self, inputs: InputSpec, targets: TargetSpec) -> OutputSpec:
        if targets.kind is not TargetKind.CLASS:
            raise ConfigError(
                f"task=classification needs {TargetKind.CLASS.value}; the data have {targets.kind.value}",
                "choose other data, or the task for these data, such as task=regression",
            )
        return OutputSpec(targets.names, (len(targets.names),), "logits")

    @property
    def balancing_hint(self) -> str:
        if self.class_weights != "none":
            return ""
        return (
            "accuracy counts mostly the frequent ones. task.class_weights=balanced or data.sampler=balanced "
            "count them equally in training, task.metric=balanced_accuracy in evaluations"
        )

    @property
    def _metric_names(self) -> list[str]:
        """The metrics of each evaluation, accuracy first."""
        return list(dict.fromkeys(["accuracy", *(name for name in (self.metric, *self.metrics) if name != "loss")]))

    def list_metrics(self, spec: ModelSpec | None = None) -> tuple[Metric, ...]:
        metrics = make_sum_metrics(spec.output.size if spec else 1, self.compute_probabilities)
        return tuple(metrics[name] for name in self._metric_names if name in metrics)

    def list_row_metrics(self, spec: ModelSpec | None = None) -> tuple[RowMetric, ...]:
        auroc = make_auroc(spec.output.size if spec else 1, self.compute_probabilities)
        return (auroc,) if "auroc" in self._metric_names else ()

    def fit(self, spec: ModelSpec, targets: NDArray[Any]) -> Task:
        """Return the task with the weights of the classes."""
        if self.class_weights == "none":
            return self
        weights = compute_class_weights("task.class_weights", self.class_weights, spec.targets.names, targets)
        options = {option.name: vars(self)[option.name] for option in fields(Classification)}
        return _WeightedClassification(**options, weights=weights)

    def compute_losses(self, outputs: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        return self._compute_loss(outputs, batch, "none", label_smoothing)

    def loss_sum(self, outputs: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """Return the sum in one operation. Outputs in half precision are widened first."""
        return self._compute_loss(outputs, batch, "sum", label_smoothing)

    def _compute_loss(
        self,
        outputs: Tensor,
        batch: Batch,
        reduction: str,
        label_smoothing: float,
        weights: Sequence[float] | None = None,
    ) -> Tensor:
        if self.loss == "cross_entropy" and weights is None:
            from torch.nn.functional import cross_entropy  # here: settings are checked before torch is imported

            return cross_entropy(outputs.float(), batch.targets, reduction=reduction, label_smoothing=label_smoothing)
        losses = compute_class_losses(
            self.loss, outputs.float(), batch.targets, label_smoothing, weights, self.focal_gamma
        )
        return losses.sum() if reduction == "sum" else losses

    def compute_probabilities(self, outputs: Tensor) -> Tensor:
        return outputs.float().sigmoid() if self.loss == "bce" else outputs.float().softmax(1)

    def predict(self, outputs: Tensor) -> Tensor:
        """Return the logarithms of the class probabilities, float [n, classes]; with loss=bce the logits."""
        return outputs.float() if self.loss == "bce" else outputs.float().log_softmax(1)

    def summarize(
        self, predictions: Predictions, spec: ModelSpec, max_samples: int, describe: DescribeExample
    ) -> dict[str, Any]:
        """Return loss, metrics, the confusion matrix, the figures of each class, and the worst mistakes.

        "wrong" lists up to `max_samples` mistakes, the most probable wrong class first.
        """
        values, labels = predictions.values, predictions.targets
        probabilities = values.sigmoid() if self.loss == "bce" else values.exp()
        predicted_labels = probabilities.argmax(1)
        wrong_rows = (predicted_labels != labels).nonzero()[:, 0]
        wrong_probabilities = probabilities.gather(1, predicted_labels[:, None])[wrong_rows, 0]
        wrong_rows = wrong_rows[wrong_probabilities.argsort(descending=True)][:max_samples]
        confusion = count_confusion(labels, predicted_labels, len(spec.targets.names))
        return {
            "examples": len(labels),
            "loss": self._compute_mean_loss(predictions),
            "accuracy": float((predicted_labels == labels).double().mean()),
            **self._measure(predictions, confusion.numpy().astype(np.float64), probabilities),
            "class_names": list(spec.targets.names),
            "confusion": confusion.tolist(),
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

    def _compute_mean_loss(self, predictions: Predictions) -> float:
        if self.loss == "cross_entropy":
            return float(-predictions.values.gather(1, predictions.targets[:, None]).double().mean())
        losses = compute_class_losses(
            self.loss, predictions.values.double(), predictions.targets, 0.0, None, self.focal_gamma
        )
        return float(losses.mean())

    def _measure(
        self, predictions: Predictions, confusion: NDArray[np.float64], probabilities: Tensor
    ) -> dict[str, Any]:
        """Return the further metrics, and precision, recall and F1 of each class."""
        index = predictions.index.numpy()
        batch = Batch(predictions.values, predictions.targets, index, index)
        metrics = make_sum_metrics(len(confusion), lambda outputs: probabilities)
        sums = {name: metrics[name].sums(probabilities, batch).tolist() for name in ("top5", "ece")}
        figures = {"top5": metrics["top5"].value(sums["top5"]), **measure_confusion(confusion)}
        figures["ece"] = metrics["ece"].value(sums["ece"])
        if len(confusion) <= _MAX_AREAS or "auroc" in self._metric_names:
            labels = predictions.targets.numpy()[:, None].astype(np.float64)
            figures["auroc"] = compute_auroc(np.hstack([labels, probabilities.double().numpy()]))
        by_class = {name: [_round(value) for value in values] for name, values in measure_classes(confusion).items()}
        return {**figures, "by_class": by_class}

    def format_predictions(self, outputs: Tensor, spec: ModelSpec, top: int) -> Iterator[dict[str, Any]]:
        """Yield {"class", "probability", "top": [[class, probability] …]} for each example.

        The most probable class is first.
        """
        probabilities = self.compute_probabilities(outputs).cpu()
        best = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
        for values, classes in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            top_classes = [
                [spec.output.names[number], round(value, 6)] for number, value in zip(classes, values, strict=True)
            ]
            yield {"class": top_classes[0][0], "probability": top_classes[0][1], "top": top_classes}

    def agrees(self, outputs: Tensor, expected: Tensor, spec: ModelSpec | None = None) -> Tensor:
        return outputs.argmax(1) == expected.argmax(1)


@dataclass(frozen=True)
class _WeightedClassification(Classification):
    """The task with the weights of the classes, by which each example's loss is multiplied."""

    weights: tuple[float, ...] = ()

    def compute_losses(self, outputs: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        return self._compute_loss(outputs, batch, "none", label_smoothing, self.weights)

    def loss_sum(self, outputs: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        return self._compute_loss(outputs, batch, "sum", label_smoothing, self.weights)


def _round(value: float) -> float | None:
    """Return a share with six digits; None for a class that does not occur."""
    return None if np.isnan(value) else round(float(value), 6)
