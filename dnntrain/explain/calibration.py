"""Compare probabilities with the share of right answers, and fit a temperature on the validation split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnntrain.utils.calibration_error import compute_calibration_error, sum_confidence_bins

#: Bounds of the temperature.
_LOWEST, _HIGHEST = 0.05, 20.0


@dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy in bins of the confidence.

    counts      examples of each bin
    confidence  mean of the largest probability in each bin; 0 if it is empty
    accuracy    share of right answers in each bin; 0 if it is empty
    """

    counts: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]

    @property
    def ece(self) -> float:
        """The mean distance of confidence and accuracy, weighted by examples."""
        counts = np.array(self.counts)
        return compute_calibration_error([*counts, *(counts * self.confidence), *(counts * self.accuracy)])

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"ece": self.ece, **{name: list(values) for name, values in vars(self).items()}}


@dataclass(frozen=True)
class Calibration:
    """The reliability on the explained split, with the probabilities as they are and with the temperature.

    is_softmax   whether the probabilities are softmax(logits); others have no temperature and no likelihood
    temperature  fitted on the validation split; None if it has too few examples
    nll          negative log-likelihood of an example, before and after
    """

    split: str
    examples: int
    before: Reliability
    after: Reliability | None
    temperature: float | None
    nll: tuple[float | None, float | None]
    is_softmax: bool = True

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "split": self.split,
            "examples": self.examples,
            "temperature": self.temperature,
            "nll_before": self.nll[0],
            "nll_after": self.nll[1],
            "before": self.before.as_json(),
            "after": None if self.after is None else self.after.as_json(),
        }


def measure_reliability(probabilities: Tensor, targets: Tensor) -> Reliability:
    """Return the reliability of class probabilities [n, classes] for class numbers [n]."""
    counts, *sums = sum_confidence_bins(probabilities, targets).numpy()
    means = [tuple((total / np.maximum(counts, 1)).tolist()) for total in sums]
    return Reliability(tuple(counts.astype(int).tolist()), *means)


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """Return the temperature T that minimizes the cross-entropy of softmax(logits / T).

    The loss is convex in 1 / T: the minimum is found by golden sections of log T, to 1e-4.
    """
    low, high = np.log(_LOWEST), np.log(_HIGHEST)
    ratio = (np.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if compute_nll(logits, targets, float(np.exp(left))) < compute_nll(logits, targets, float(np.exp(right))):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def compute_nll(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> float:
    """Return the mean cross-entropy of softmax(logits / temperature)."""
    return float(torch.nn.functional.cross_entropy(logits.double() / temperature, targets))


def calibrate(
    split: str, logits: Tensor, probabilities: Tensor, targets: Tensor, fitting: tuple[Tensor, Tensor] | None
) -> Calibration:
    """Measure the reliability before and after a temperature, which `fitting` = (logits, targets) decides."""
    before = measure_reliability(probabilities, targets)
    if not torch.allclose(probabilities.double(), logits.double().softmax(1), atol=1e-4):
        return Calibration(split, len(targets), before, None, None, (None, None), is_softmax=False)
    temperature = None if fitting is None else fit_temperature(*fitting)
    after, nll = None, None
    if temperature is not None:
        after = measure_reliability((logits.double() / temperature).softmax(1), targets)
        nll = compute_nll(logits, targets, temperature)
    return Calibration(split, len(targets), before, after, temperature, (compute_nll(logits, targets), nll))
