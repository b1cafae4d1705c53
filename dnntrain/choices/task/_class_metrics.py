"""Metrics of classes: from the confusion matrix, from ranks of the true class, and from areas under curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dnntrain.protocols import Batch, Metric, RowMetric
from dnntrain.utils.calibration_error import BINS, compute_calibration_error, sum_confidence_bins

if TYPE_CHECKING:
    from torch import Tensor

Confusion = NDArray[np.float64]


def count_correct(outputs: Tensor, batch: Batch) -> Tensor:
    """Return [2]: the number of correct predictions, and the number of examples."""
    import torch

    correct = (outputs.argmax(1) == batch.targets).sum()
    return torch.stack([correct, torch.full_like(correct, len(batch))])


def count_in_top(count: int) -> Callable[[Tensor, Batch], Tensor]:
    """Return the sums of examples whose class is among the `count` most probable ones, and of examples."""

    def sums(outputs: Tensor, batch: Batch) -> Tensor:
        import torch

        top = outputs.topk(min(count, outputs.shape[1]), dim=1).indices
        correct = (top == batch.targets[:, None]).any(1).sum()
        return torch.stack([correct, torch.full_like(correct, len(batch))])

    return sums


def divide(sums: Sequence[float]) -> float:
    """Return the first of two sums over the second; NaN if that is zero."""
    return sums[0] / sums[1] if sums[1] else float("nan")


def count_cells(outputs: Tensor, batch: Batch) -> Tensor:
    """Return the confusion matrix as float [classes²]: true class by predicted class."""
    classes = outputs.shape[1]
    return count_confusion(batch.targets, outputs.argmax(1), classes).flatten().double()


def count_confusion(labels: Tensor, predicted_labels: Tensor, num_classes: int) -> Tensor:
    """Return int64 [classes, classes]: rows are the true classes, columns the predicted ones."""
    import torch

    cells = labels * num_classes + predicted_labels
    return torch.bincount(cells, minlength=num_classes * num_classes).reshape(num_classes, num_classes)


def measure_classes(confusion: Confusion) -> dict[str, NDArray[np.float64]]:
    """Return precision, recall and F1 of each class; 0 for a class that is never predicted.

    NaN for a class that neither occurs nor is predicted.
    """
    true_positives, true, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    is_absent = (true + predicted) == 0

    def share(numbers: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(is_absent, np.nan, numbers / np.maximum(totals, 1))

    return {
        "precision": share(true_positives, predicted),
        "recall": share(true_positives, true),
        "f1": share(2 * true_positives, true + predicted),
    }


def measure_confusion(confusion: Confusion) -> dict[str, float]:
    """Return balanced accuracy (mean recall of the classes that occur), and means over the classes."""
    if not confusion.sum():
        return dict.fromkeys(CONFUSION_METRICS, float("nan"))
    by_class = measure_classes(confusion)
    return {
        "balanced_accuracy": float(by_class["recall"][confusion.sum(1) > 0].mean()),
        **{f"macro_{name}": float(np.nanmean(values)) for name, values in by_class.items()},
    }


#: The names of `measure_confusion`, in order.
CONFUSION_METRICS = ("balanced_accuracy", "macro_precision", "macro_recall", "macro_f1")


def sum_bins(get_probabilities: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Batch], Tensor]:
    """Return [3 bins]: the examples, confidences and correct predictions of each bin of the confidence."""

    def sums(outputs: Tensor, batch: Batch) -> Tensor:
        return sum_confidence_bins(get_probabilities(outputs), batch.targets).flatten()

    return sums


def compute_auroc(rows: NDArray[np.float64]) -> float:
    """Return the mean over classes of the area under the ROC curve, each class against all others.

    `rows` are [n, 1 + classes]: the true class and the probabilities. The area is the share of pairs of
    an example of the class and another one in which the first has the higher probability; ties count
    half. Classes that do not occur, or are all examples, are left out. (Mann and Whitney, 1947.)
    """
    areas = [compute_area(rows[:, 0] == label, rows[:, 1 + label]) for label in range(rows.shape[1] - 1)]
    finite = [area for area in areas if np.isfinite(area)]
    return float(np.mean(finite)) if finite else float("nan")


def compute_area(is_positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Return the area under the ROC curve of one class; NaN without positive or without negative examples."""
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_ranks[inverse][is_positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def make_sum_metrics(classes: int, get_probabilities: Callable[[Tensor], Tensor]) -> Mapping[str, Metric]:
    """Return the metrics that are sums over examples, by name."""

    def make_value(name: str) -> Callable[[Sequence[float]], float]:
        return lambda sums: measure_confusion(np.array(sums).reshape(classes, classes))[name]

    metrics = [
        Metric("accuracy", higher_is_better=True, unit="%", sums=count_correct, value=divide, width=2),
        Metric("top5", higher_is_better=True, unit="%", sums=count_in_top(5), value=divide, width=2),
        *(
            Metric(name, higher_is_better=True, unit="%", sums=count_cells, value=make_value(name), width=classes**2)
            for name in CONFUSION_METRICS
        ),
        Metric("ece", unit="%", sums=sum_bins(get_probabilities), value=compute_calibration_error, width=3 * BINS),
    ]
    return {metric.name: metric for metric in metrics}


def make_auroc(classes: int, get_probabilities: Callable[[Tensor], Tensor]) -> RowMetric:
    """Return the metric "auroc"."""

    def make_rows(outputs: Tensor, batch: Batch) -> Tensor:
        import torch

        return torch.cat([batch.targets[:, None].double(), get_probabilities(outputs).double()], dim=1)

    return RowMetric("auroc", higher_is_better=True, unit="%", rows=make_rows, value=compute_auroc, width=classes + 1)
