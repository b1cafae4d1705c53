"""Multi-label classification: each example has any number of labels, and the model gives a logit for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dnntrain.choices.task._class_weights import check_weights_file, check_weights_option, compute_label_weights
from dnntrain.choices.task._label_metrics import (
    compute_mean_average_precision,
    find_threshold,
    list_precision_curves,
    measure_labels,
    sum_label_cells,
)
from dnntrain.config.fields import Annotated, Literal, Range
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


@dataclass(frozen=True)
class Multilabel(Task):
    """The sum over labels of the binary cross-entropy of sigmoid(logit).

    mAP is the mean over labels of the average precision: the mean, over the examples with the label, of
    the precision among the examples that are at least as probable. F1 counts a label as predicted from
    `threshold` on: over all labels together (micro), or the mean over labels (macro). A calibrated
    threshold is chosen once, when training is done; before, it is 0.5.
    """

    metric: Literal["map", "macro_f1", "micro_f1", "loss"] = "map"  # default metric of the task
    threshold: Literal["calibrated"] | Annotated[float, Range(above=0, below=1)] = (
        0.5  # probability from which a label is predicted; calibrated: the one with the best micro F1 of the validation split
    )
    label_weights: str = "none"  # weight of an example with a label: none, balanced, or a CSV file

    target_kind: ClassVar[TargetKind | None] = TargetKind.LABELS
    features: ClassVar[frozenset[TaskFeature]] = frozenset(
        {TaskFeature.MIXABLE_TARGETS, TaskFeature.PASTABLE_TARGETS, TaskFeature.SMOOTHABLE_TARGETS}
    )
    place_options: ClassVar[tuple[str, ...]] = ("label_weights",)
    agreement: ClassVar[str] = "same labels"

    def __post_init__(self) -> None:
        check_weights_option("task.label_weights", self.label_weights)

    def check_files(self) -> None:
        check_weights_file("task.label_weights", self.label_weights)

    def build(self, inputs: InputSpec, targets: TargetSpec) -> OutputSpec:
        if targets.kind is not TargetKind.LABELS:
            raise ConfigError(
                f"task=multilabel needs {TargetKind.LABELS.value}; the data have {targets.kind.value}",
                "choose other data, such as data=image_table, or the task for these data",
            )
        return OutputSpec(targets.names, (len(targets.names),), "logits")

    @property
    def calibrates(self) -> bool:
        return self.threshold == "calibrated"

    def calibrate(self, predictions: Predictions, spec: ModelSpec) -> ModelSpec:
        """Return the specification with the threshold of the highest micro F1."""
        probabilities = predictions.values.sigmoid().double().numpy()
        threshold, _ = find_threshold(probabilities, predictions.targets.numpy() > 0.5)
        # Halfway to the next value, so that rounding in another format does not cross it.
        threshold = (threshold + probabilities[probabilities < threshold].max(initial=0.0)) / 2
        return replace(spec, output=replace(spec.output, threshold=float(threshold))) if 0 < threshold < 1 else spec

    def get_threshold(self, spec: ModelSpec | None) -> float:
        """Return `threshold`, or that of the model if it was calibrated."""
        if self.threshold != "calibrated":
            return self.threshold
        return 0.5 if spec is None or spec.output.threshold is None else spec.output.threshold

    def list_metrics(self, spec: ModelSpec | None = None) -> tuple[Metric, ...]:
        labels, threshold = spec.output.size if spec else 1, self.get_threshold(spec)

        def sums(outputs: Tensor, batch: Batch) -> Tensor:
            return sum_label_cells(outputs.float().sigmoid() >= threshold, batch.targets)

        def make(name: str) -> Metric:
            return Metric(
                name,
                higher_is_better=True,
                unit="%",
                sums=sums,
                value=lambda values: measure_labels(np.array(values).reshape(3, labels))[name],
                width=3 * labels,
            )

        return make("macro_f1"), make("micro_f1")

    def list_row_metrics(self, spec: ModelSpec | None = None) -> tuple[RowMetric, ...]:
        return (
            RowMetric(
                "map",
                higher_is_better=True,
                unit="%",
                rows=make_rows,
                value=compute_mean_average_precision,
                width=2 * (spec.output.size if spec else 1),
            ),
        )

    def fit(self, spec: ModelSpec, targets: NDArray[Any]) -> Task:
        """Return the task with the weights of the labels."""
        if self.label_weights == "none":
            return self
        weights = compute_label_weights("task.label_weights", self.label_weights, spec.targets.names, targets)
        options = {option.name: vars(self)[option.name] for option in fields(Multilabel)}
        return _WeightedMultilabel(**options, weights=weights)

    def compute_losses(self, outputs: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        return self._compute_losses(outputs, batch, label_smoothing, None)

    def _compute_losses(
        self, outputs: Tensor, batch: Batch, label_smoothing: float, weights: Sequence[float] | None
    ) -> Tensor:
        import torch  # here, because settings are checked before torch is imported
        from torch.nn.functional import binary_cross_entropy_with_logits

        targets = (1 - label_smoothing) * batch.targets + label_smoothing / 2 if label_smoothing else batch.targets
        weight = None if weights is None else torch.tensor(weights).to(outputs.device)
        return binary_cross_entropy_with_logits(outputs.float(), targets, pos_weight=weight, reduction="none").sum(1)

    def compute_probabilities(self, outputs: Tensor) -> Tensor:
        return outputs.float().sigmoid()

    def summarize(
        self, predictions: Predictions, spec: ModelSpec, max_samples: int, describe: DescribeExample
    ) -> dict[str, Any]:
        """Return loss and metrics, figures and curve of each label, and the worst mistakes.

        "calibrated_threshold" has the highest micro F1 of these examples. "wrong" lists up to
        `max_samples` examples, those with the most confident wrong label first.
        """
        summary = super().summarize(predictions, spec, max_samples, describe)
        probabilities, targets = predictions.values.sigmoid(), predictions.targets
        threshold, best = find_threshold(probabilities.double().numpy(), targets.numpy() > 0.5)
        cells = sum_label_cells(probabilities >= self.get_threshold(spec), targets).numpy().reshape(3, -1)
        errors = (probabilities - targets).abs()
        worst = errors.amax(1).argsort(descending=True)[:max_samples].tolist()
        return {
            **summary,
            "calibrated_threshold": threshold,
            "calibrated_micro_f1": best,
            "threshold": self.get_threshold(spec),
            "label_names": list(spec.targets.names),
            "label_curves": list_precision_curves(probabilities.double().numpy(), targets.numpy() > 0.5),
            "by_label": _list_figures(cells),
            "worst_labels": [
                {
                    **describe(int(predictions.index[row])),
                    "label": spec.targets.names[int(errors[row].argmax())],
                    "target": int(targets[row, int(errors[row].argmax())]),
                    "probability": round(float(probabilities[row, int(errors[row].argmax())]), 6),
                }
                for row in worst
            ],
        }

    def format_predictions(self, outputs: Tensor, spec: ModelSpec, top: int) -> Iterator[dict[str, Any]]:
        """Yield {"labels": names separated by ";", NAME: probability …} for each example.

        The probability of a label that is itself called "labels" is "labels_probability".
        """
        threshold = self.get_threshold(spec)
        for row in outputs.float().sigmoid().cpu().tolist():
            pairs = list(zip(spec.output.names, row, strict=True))
            labels = ";".join(name for name, probability in pairs if probability >= threshold)
            yield {"labels": labels, **{_name_column(name): round(value, 6) for name, value in pairs}}

    def agrees(self, outputs: Tensor, expected: Tensor, spec: ModelSpec | None = None) -> Tensor:
        threshold = self.get_threshold(spec)
        first, second = (values.float().sigmoid() >= threshold for values in (outputs, expected))
        return (first == second).all(1)


@dataclass(frozen=True)
class _WeightedMultilabel(Multilabel):
    """The task with a weight for the examples that have a label."""

    weights: tuple[float, ...] = ()

    def compute_losses(self, outputs: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        return self._compute_losses(outputs, batch, label_smoothing, self.weights)


def _name_column(name: str) -> str:
    return "labels_probability" if name == "labels" else name


def make_rows(outputs: Tensor, batch: Batch) -> Tensor:
    """Return [n, 2 labels]: the targets, then the logits."""
    import torch

    return torch.cat([batch.targets.double(), outputs.double()], dim=1)


def _list_figures(cells: NDArray[np.float64]) -> dict[str, list[float]]:
    """Return precision, recall and F1 of each label; 0 for a label that is never predicted."""
    right, true, predicted = cells
    shares = {
        "precision": right / np.maximum(predicted, 1),
        "recall": right / np.maximum(true, 1),
        "f1": 2 * right / np.maximum(true + predicted, 1),
    }
    return {name: [round(value, 6) for value in values.tolist()] for name, values in shares.items()}
