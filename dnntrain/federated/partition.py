"""Give every example to one client.

All choices are keyed by the seed, so a partition is a pure function of labels and configuration.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnntrain.errors import ConfigError
from dnntrain.protocols.federation import Partition
from dnntrain.utils.rng import Index, Key, derive_seed


def make_parts(
    partition: Partition,
    clients: int,
    index: Index,
    labels: NDArray[Any] | None,
    values: Sequence[str] | None,
    seed: int,
) -> list[Index]:
    """Return the examples of each client, each sorted: a partition of `index`.

    labels  the class of each of `index`; None if an example has no single class
    values  the value of the column of each of `index`, for by_column

    Raises ConfigError if a rule needs classes or a column that the data do not have.
    """
    if clients > len(index):
        raise ConfigError(
            f"federated.clients={clients} must be <= {len(index)}, the number of training examples",
            f"use federated.clients={len(index)} or less",
        )
    key = Key(seed, "clients")
    if partition.kind == "iid":
        parts = cut_evenly(key.permutation(index), clients)
    elif partition.kind == "by_column":
        parts = group_by_value(index, values, clients, partition.column)
    elif labels is None:
        raise ConfigError(
            f"federated.partition={partition.kind} needs one class for each example",
            "use federated.partition=iid, or by_column for a table",
        )
    elif partition.kind == "dirichlet":
        parts = draw_dirichlet(index, labels, clients, partition.alpha, key)
    else:
        parts = deal_shards(index, labels, clients, partition.shards, key)
    return [np.sort(part) for part in fill_empty(parts)]


def cut_evenly(order: Index, clients: int) -> list[Index]:
    """Return consecutive parts of `order`, whose sizes differ by one at most."""
    bounds = [len(order) * client // clients for client in range(clients + 1)]
    return [order[start:end] for start, end in itertools.pairwise(bounds)]


def draw_dirichlet(index: Index, labels: NDArray[Any], clients: int, alpha: float, key: Key) -> list[Index]:
    """Divide each class by shares from a Dirichlet distribution (Hsu et al., 2019)."""
    parts: list[list[Index]] = [[] for _ in range(clients)]
    for label in np.unique(labels).tolist():
        random = np.random.Generator(np.random.PCG64(derive_seed(key.seed, "dirichlet", label)))
        gammas = np.maximum(random.standard_gamma(alpha, clients), 1e-300)
        for client, part in enumerate(cut_by_shares(key.permutation(index[labels == label]), gammas / gammas.sum())):
            parts[client].append(part)
    return [np.concatenate(part) for part in parts]


def cut_by_shares(order: Index, shares: NDArray[np.float64]) -> list[Index]:
    """Return consecutive parts of `order` with these shares of it."""
    ends = np.round(np.cumsum(shares) * len(order)).astype(np.int64)
    ends[-1] = len(order)
    return np.split(order, ends[:-1])


def deal_shards(index: Index, labels: NDArray[Any], clients: int, shards: int, key: Key) -> list[Index]:
    """Cut the examples, sorted by class, into parts, and deal `shards` of them to each client (McMahan et al., 2017)."""
    order = index[np.lexsort((key.bits(index), labels))]
    pieces = cut_evenly(order, clients * shards)
    deal = key.with_stream("shards").permutation(np.arange(clients * shards)).reshape(clients, shards)
    return [np.concatenate([pieces[piece] for piece in row]) for row in deal.tolist()]


def group_by_value(index: Index, values: Sequence[str] | None, clients: int, column: str) -> list[Index]:
    """Give all examples with one value of the column to one client; a client may have several values.

    The values with the most examples come first, each to the client with the fewest so far.
    """
    if values is None:
        raise ConfigError(
            f"federated.column={column} needs a table with this column"
            if column
            else "federated.partition=by_column needs federated.column",
            "use data=table, or federated.partition=iid",
        )
    names, place, counts = np.unique(np.array(values, dtype=str), return_inverse=True, return_counts=True)
    if clients > len(names):
        raise ConfigError(
            f"federated.clients={clients} must be <= {len(names)}, the number of values of the column {column}",
            f"use federated.clients={len(names)} or less",
        )
    owners, sizes = np.empty(len(names), np.int64), np.zeros(clients, np.int64)
    for value in np.argsort(-counts, kind="stable"):
        owners[value] = np.argmin(sizes)
        sizes[owners[value]] += counts[value]
    owner = owners[place]
    return [index[owner == client] for client in range(clients)]


def fill_empty(parts: Sequence[Index]) -> list[Index]:
    """Give each client without an example one of the client with the most."""
    filled = list(parts)
    for client, part in enumerate(filled):
        if len(part) == 0:
            largest = max(range(len(filled)), key=lambda other: len(filled[other]))
            filled[largest], filled[client] = filled[largest][:-1], filled[largest][-1:]
    return filled


def deal_like(parts: Sequence[Index], labels: NDArray[Any] | None, index: Index, seed: int) -> list[Index]:
    """Deal the examples `index` so that clients have the class shares of `parts`.

    labels  the classes of all examples of the source, by number; without them clients get the shares
            of their sizes
    """
    key = Key(seed, "client evaluation")
    classes = np.zeros(1, np.int64) if labels is None else np.unique(labels)
    dealt: list[list[Index]] = [[] for _ in parts]
    for label in classes.tolist():
        counts = np.array(
            [len(part) if labels is None else (labels[part] == label).sum() for part in parts], np.float64
        )
        of_class = index if labels is None else index[labels[index] == label]
        if counts.sum() == 0 or len(of_class) == 0:
            continue
        for client, part in enumerate(cut_by_shares(key.permutation(of_class), counts / counts.sum())):
            dealt[client].append(part)
    return [np.sort(np.concatenate(part)) if part else np.empty(0, np.int64) for part in dealt]
