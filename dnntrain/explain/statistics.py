"""Compare maps: ranks, correlation, entropy, and the interval of a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dnntrain.utils.student_t import compute_t_quantile


class Interval(NamedTuple):
    """A mean over examples, and the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return self._asdict()


def compute_interval(values: Sequence[float] | Tensor) -> Interval:
    """Return the mean of independent values with its 95 % interval, mean ± t · s / √n.

    t is the quantile of Student's t with n - 1 degrees of freedom; two values or fewer have no interval:
    it is infinite.
    """
    numbers = torch.as_tensor(values, dtype=torch.float64).flatten()
    count = len(numbers)
    if not count:
        return Interval(math.nan, -math.inf, math.inf)
    mean = float(numbers.mean())
    if count < 3:
        return Interval(mean, -math.inf, math.inf)
    reach = compute_t_quantile(0.975, count - 1) * float(numbers.std()) / math.sqrt(count)
    return Interval(mean, mean - reach, mean + reach)


def compute_ranks(values: Tensor) -> Tensor:
    """Return the rank, from 0 on, of each value of a row; equal values share the mean rank; [n, k] → [n, k]."""
    ordered = values.sort(1).values.contiguous()
    values = values.contiguous()
    first = torch.searchsorted(ordered, values)
    last = torch.searchsorted(ordered, values, right=True) - 1
    return (first + last).double() / 2


def correlate_ranks(a: Tensor, b: Tensor) -> Tensor:
    """Return Spearman's rank correlation [n] of each pair of maps [n, …]; 0 if one of them is constant."""
    ranks = [compute_ranks(maps.flatten(1).float()) for maps in (a, b)]
    first, second = (rank - rank.mean(1, keepdim=True) for rank in ranks)
    norms = first.norm(dim=1) * second.norm(dim=1)
    return torch.where(norms > 0, (first * second).sum(1) / norms.clamp_min(1e-30), torch.zeros_like(norms))


def compute_entropy(maps: Tensor, bins: int = 32) -> Tensor:
    """Return the entropy [n], in bits, of the histogram of each map's values; 0 for a constant map.

    It measures how complex a map is (Hedström et al., "Sanity checks revisited", arXiv 2405.02383).
    """
    values = maps.flatten(1).double()
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    place = ((values - low) / (high - low).clamp_min(1e-30) * bins).long().clamp(0, bins - 1)
    counts = torch.zeros(len(values), bins, dtype=torch.float64, device=values.device)
    counts.scatter_add_(1, place, torch.ones_like(values))
    shares = counts / values.shape[1]
    return -(shares * shares.clamp_min(1e-30).log2()).sum(1)
