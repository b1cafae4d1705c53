"""Quantiles of Student's t, for intervals of means."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

#: Panels of Simpson's rule, and halvings of the bracket.
_PANELS, _HALVINGS = 2000, 60


@lru_cache(maxsize=256)
def compute_t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t with `freedom` degrees of freedom, for a probability above 1/2."""
    log_norm = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    weights = np.where(np.arange(_PANELS + 1) % 2, 4.0, 2.0)
    weights[[0, -1]] = 1.0

    def compute_probability_below(value: float) -> float:
        places = np.linspace(0.0, value, _PANELS + 1)
        density = np.exp(log_norm - (freedom + 1) / 2 * np.log1p(places * places / freedom))
        return 0.5 + value / _PANELS / 3 * float(weights @ density)

    low, high = 0.0, 1000.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if compute_probability_below(middle) < probability else (low, middle)
    return high
