"""Metrics of labels: F1 from counts, average precision from the order of all examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


def sum_label_cells(predicted: Tensor, targets: Tensor) -> Tensor:
    """Return float64 [3 labels]: right predictions, true labels and predicted labels, each [labels]."""
    import torch

    is_true = targets > 0.5
    counts = [(predicted & is_true).sum(0), is_true.sum(0), predicted.sum(0)]
    return torch.cat(counts).double()


def measure_labels(cells: NDArray[np.float64]) -> dict[str, float]:
    """Return F1 over all labels together, and the mean over the labels that occur or are predicted."""
    right, totals = 2 * cells[0], cells[1] + cells[2]
    if not totals.sum():
        return {"micro_f1": float("nan"), "macro_f1": float("nan")}
    return {
        "micro_f1": float(right.sum() / totals.sum()),
        "macro_f1": float((right[totals > 0] / totals[totals > 0]).mean()),
    }


def compute_mean_average_precision(rows: NDArray[np.float64]) -> float:
    """Return the mean average precision of the labels that occur.

    `rows` are [n, 2 labels]: targets, then scores.
    """
    labels = rows.shape[1] // 2
    values = [
        compute_average_precision(rows[:, label] > 0.5, rows[:, labels + label])
        for label in range(labels)
        if (rows[:, label] > 0.5).any()
    ]
    return float(np.mean(values)) if values else float("nan")


def compute_average_precision(is_true: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Return the sum over thresholds of (rise of the recall) × precision; equal scores are one threshold."""
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(is_true[order])
    is_last = np.append(scores[order][1:] != scores[order][:-1], True)
    right, predicted = right[is_last], np.flatnonzero(is_last) + 1
    recall_rise = np.diff(right, prepend=0) / right[-1]
    return float((recall_rise * right / predicted).sum())


def find_threshold(probabilities: NDArray[np.float64], is_true: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the threshold with the highest micro F1, and this F1. Arrays are [n, labels]."""
    scores, truth = probabilities.ravel(), is_true.ravel()
    order = np.argsort(-scores, kind="stable")
    f1 = 2 * np.cumsum(truth[order]) / (np.arange(1, len(scores) + 1) + max(int(truth.sum()), 1))
    is_last = np.append(scores[order][1:] != scores[order][:-1], True)
    best = int(np.argmax(np.where(is_last, f1, -1.0)))
    return float(scores[order][best]), float(f1[best])


def list_precision_curves(
    probabilities: NDArray[np.float64], is_true: NDArray[np.bool_], max_points: int = 40
) -> list[list[list[float]]]:
    """Return [recall, precision] at falling thresholds for each label, at most `max_points` evenly spaced ones.

    A label that does not occur has no points. Arrays are [n, labels].
    """
    curves = []
    for scores, truth in zip(probabilities.T, is_true.T, strict=True):
        order = np.argsort(-scores, kind="stable")
        is_last = np.append(scores[order][1:] != scores[order][:-1], True)
        right, predicted = np.cumsum(truth[order])[is_last], np.flatnonzero(is_last) + 1
        picked = np.unique(np.linspace(0, len(right) - 1, min(max_points, len(right))).round().astype(int))
        recall, precision = right[picked] / max(int(truth.sum()), 1), right[picked] / predicted[picked]
        pairs = np.stack([recall, precision], axis=1).round(4).tolist() if truth.any() else []
        curves.append(pairs)
    return curves
