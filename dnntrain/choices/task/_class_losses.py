"""Losses of logits over classes, with weights of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def compute_class_losses(
    loss: str,
    outputs: Tensor,
    targets: Tensor,
    label_smoothing: float,
    weights: Sequence[float] | None,
    gamma: float,
) -> Tensor:
    """Return the loss of each example [n] of logits [n, classes].

    With target probabilities t, after smoothing, weights w, p = softmax(logits), q = sigmoid(logits):

        cross_entropy  - sum of w t log p
        focal          - sum of w t (1 - p)^gamma log p          (Lin et al., 2017)
        bce            - sum of w_y (t log q + (1 - t) log (1 - q)), with the mean weight w_y of t
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

    classes = outputs.shape[1]
    soft = targets.to(outputs.dtype) if targets.is_floating_point() else one_hot(targets, classes).to(outputs.dtype)
    if label_smoothing:
        soft = (1 - label_smoothing) * soft + label_smoothing / classes
    weight = torch.ones(classes) if weights is None else torch.tensor(weights)
    weight = weight.to(outputs)
    if loss == "bce":
        losses = binary_cross_entropy_with_logits(outputs, soft, reduction="none").sum(1)
        return losses * ((soft * weight).sum(1) / soft.sum(1).clamp_min(1e-12))
    log_probabilities = outputs.log_softmax(1)
    terms = weight * soft * log_probabilities
    if loss == "focal":
        # For gamma < 1 the derivative of (1 - p)^gamma is infinite at p = 1.
        remainder = (1 - log_probabilities.exp()).clamp_min(1e-7)
        terms = terms * remainder**gamma
    return -terms.sum(1)
