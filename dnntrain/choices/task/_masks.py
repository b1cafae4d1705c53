"""Losses and figures of classes of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dnntrain.protocols import IGNORED

if TYPE_CHECKING:
    from torch import Tensor


def count_valid_pixels(targets: Tensor) -> Tensor:
    """Return the number of pixels that count, an int64 scalar."""
    return (targets != IGNORED).sum()


def pixel_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of the cross-entropies of each image's pixels: [n, classes, h, w] → [n]."""
    from torch.nn.functional import cross_entropy  # here: settings are checked before torch is imported

    return cross_entropy(logits, targets, reduction="none", ignore_index=IGNORED).sum((1, 2))


def dice_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return (1 - mean Dice coefficient over classes) times the pixels that count, of each image [n]."""
    import torch
    from torch.nn.functional import one_hot

    classes = logits.shape[1]
    is_valid = targets != IGNORED
    truth = one_hot(targets.where(is_valid, torch.zeros_like(targets)), classes).permute(0, 3, 1, 2)
    truth = truth * is_valid[:, None]
    probabilities = logits.softmax(1) * is_valid[:, None]
    both = (probabilities * truth).sum((2, 3))
    dice = (2 * both + 1) / (probabilities.sum((2, 3)) + truth.sum((2, 3)) + 1)
    return (1 - dice.mean(1)) * is_valid.sum((1, 2))


def sum_pixels(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Return int64 [3 classes]: right pixels, pixels and predicted pixels of each class.

    `predicted` and `targets` are [n, height, width].
    """
    import torch

    is_valid = targets != IGNORED

    def count(values: Tensor, is_counted: Tensor) -> Tensor:
        # Pixels that do not count get a class of their own, so that no shape depends on them.
        places = values.where(is_counted, torch.full_like(values, classes)).flatten()
        return torch.bincount(places, minlength=classes + 1)[:classes]

    right = count(targets, is_valid & (predicted == targets))
    return torch.cat([right, count(targets, is_valid), count(predicted, is_valid)])


def measure_classes(sums: Sequence[float]) -> dict[str, float]:
    """Return the mean intersection over union, and the share of right pixels, of sums as above.

    The mean is over the classes that occur in masks or predictions.
    """
    right, true, predicted = np.array(sums, dtype=np.float64).reshape(3, -1)
    union = true + predicted - right
    occurs = union > 0
    return {
        "miou": float((right[occurs] / union[occurs]).mean()) if occurs.any() else float("nan"),
        "pixel_accuracy": float(right.sum() / true.sum()) if true.sum() else float("nan"),
    }


def list_class_figures(sums: Sequence[float]) -> dict[str, list[float | None]]:
    """Return IoU, precision, recall and share of the pixels of each class; None if they are not defined."""
    right, true, predicted = np.array(sums, dtype=np.float64).reshape(3, -1)
    pairs = {
        "iou": (right, true + predicted - right),
        "precision": (right, predicted),
        "recall": (right, true),
        "share": (true, np.full_like(true, true.sum())),
    }
    return {
        name: [
            round(one / all_pixels, 6) if all_pixels else None
            for one, all_pixels in zip(part.tolist(), whole.tolist(), strict=True)
        ]
        for name, (part, whole) in pairs.items()
    }
