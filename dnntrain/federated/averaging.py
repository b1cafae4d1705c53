"""Join the weights of a cohort: their exact mean, or a robust function of all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from dnntrain.federated.exact_sum import ExactSum
from dnntrain.protocols.federation import MAX_COHORT, JoinTable

Reduce = Callable[[Tensor], Tensor]


class Join(Protocol):
    """Collects the weights of the clients that this rank trains, and joins those of all ranks."""

    def add(self, place: int, weight: int, weights: Tensor) -> None:
        """Add the weights float64 [n] of the client at `place` in the cohort."""
        ...

    def finish(self, reduce: Reduce) -> Tensor:
        """Return the joined weights of all ranks, float64 [n]."""
        ...


class MeanJoin:
    """The mean of the weights, by `weight`: Σ weight * weights / Σ weight, summed exactly."""

    def __init__(self, size: int, device: str, total: int) -> None:
        self._sum, self._total = ExactSum(size, device), total

    def add(self, place: int, weight: int, weights: Tensor) -> None:
        self._sum.add(weights * weight, weight / self._total)

    def finish(self, reduce: Reduce) -> Tensor:
        self._sum.reduce(reduce)
        return self._sum.value() / self._total


class PrivateJoin:
    """start + (Σ (weights - start) + noise) / expected: a sum of clipped updates over a fixed number (McMahan et al., 2018).

    expected  mean number of clients in a round, which need not be whole
    """

    def __init__(self, start: Tensor, device: str, expected: float, noise: Tensor) -> None:
        self._sum, self._start, self._expected, self._noise = ExactSum(len(start), device), start, expected, noise

    def add(self, place: int, weight: int, weights: Tensor) -> None:
        self._sum.add(weights - self._start, 1 / MAX_COHORT)

    def finish(self, reduce: Reduce) -> Tensor:
        self._sum.reduce(reduce)
        return self._start + (self._sum.value() + self._noise) / self._expected


class TableJoin:
    """A function of the weights of all clients, which it keeps as float32 [clients, n].

    trained  entries that are trained weights; statistics follow
    """

    def __init__(self, size: int, device: str, clients: int, trained: int, join: JoinTable) -> None:
        self._table, self._trained, self._join = torch.zeros(clients, size, device=device), trained, join

    def add(self, place: int, weight: int, weights: Tensor) -> None:
        self._table[place] = weights.float()

    def finish(self, reduce: Reduce) -> Tensor:
        # Each row is zero on all ranks but one, so the sum is exact.
        return self._join(reduce(self._table), self._trained).double()


def take_median(table: Tensor, trained: int) -> Tensor:
    """Return the median of each entry, the mean of the two in the middle if there are two (Yin et al., 2018)."""
    ordered = table.sort(0).values
    middle = len(table) // 2
    return ordered[middle] if len(table) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def trim_mean(table: Tensor, trained: int, trim: float) -> Tensor:
    """Return the mean of each entry without the share `trim` at either end (Yin et al., 2018)."""
    cut = min(int(trim * len(table)), (len(table) - 1) // 2)
    return table.sort(0).values[cut : len(table) - cut].double().mean(0)


def select_krum(table: Tensor, trained: int, malicious: float, selected: int) -> Tensor:
    """Return the mean of the `selected` rows with the nearest neighbors (Blanchard et al., 2017).

    The score of a row is the sum of its squared distances to the n - f - 2 nearest other rows, with f
    the number of malicious clients. Only the first `trained` entries count: a statistic such as a
    number of batches would outweigh all weights.
    """
    clients = len(table)
    neighbors = max(1, clients - round(malicious * clients) - 2)
    weights = table[:, :trained]
    distances = torch.stack([(weights - row).double().square().sum(1) for row in weights])
    distances.fill_diagonal_(torch.inf)
    scores = distances.sort(1).values[:, : min(neighbors, clients - 1)].sum(1) if clients > 1 else torch.zeros(1)
    best = scores.argsort(stable=True)[: min(selected, clients)]
    return table[best.sort().values].double().mean(0)
