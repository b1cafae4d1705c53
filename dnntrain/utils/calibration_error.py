"""The expected calibration error: the distance of confidence and accuracy, in bins of the confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

#: Bins of the confidence, of equal width.
BINS = 15


def sum_confidence_bins(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return float64 [3, BINS]: examples, sum of confidences, and right answers of each bin.

    The confidence is the largest of the class probabilities [n, classes]; `targets` int64 [n].
    """
    import torch

    confidence, predicted = probabilities.double().max(1)
    bins = (confidence * BINS).long().clamp(0, BINS - 1)
    columns = [torch.ones_like(confidence), confidence, (predicted == targets).double()]
    return torch.stack([confidence.new_zeros(BINS).index_add(0, bins, column) for column in columns])


def compute_calibration_error(sums: Sequence[float]) -> float:
    """Return sum over bins |right answers - confidences| / examples, from the 3 * BINS sums; NaN of no example.

    Source: Guo et al., "On calibration of modern neural networks", 2017.
    """
    counts, confidence, correct = np.array(sums, dtype=np.float64).reshape(3, BINS)
    return float(np.abs(correct - confidence).sum() / counts.sum()) if counts.sum() else float("nan")
