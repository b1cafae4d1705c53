"""Which examples are held out for validation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dnntrain.config.run_config import RunConfig
from dnntrain.input.prepared import PreparedData
from dnntrain.input.source import DataSet
from dnntrain.utils.rng import Index, Key


def split_validation(labels: NDArray[np.int64], val_fraction: float, seed: int) -> tuple[Index, Index]:
    """(train, val) indices of the training split, each sorted; stratified by class, keyed by `seed`."""
    return hold_out_examples(labels, round(val_fraction * len(labels)), Key(seed, "validation"))


def hold_out_examples(labels: NDArray[np.int64], count: int, key: Key) -> tuple[Index, Index]:
    """(kept, held) indices, each sorted, with `count` held out and classes in equal proportion.

    Each class gives its exact share rounded down; what is missing comes from the classes with the largest remainders. A
    class keeps at least one example where it can, so `held` may be shorter than `count` where classes are tiny. Which
    examples of a class are held depends on `key` and their own number only.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    exact_shares = count * sizes / max(len(labels), 1)
    shares = np.floor(exact_shares).astype(np.int64)
    by_remainder = np.argsort(-(exact_shares - shares), kind="stable")
    shares[by_remainder[: count - int(shares.sum())]] += 1
    shares = np.minimum(shares, sizes - 1)
    is_held = np.zeros(len(labels), dtype=bool)
    for label, share in zip(classes, shares, strict=True):
        is_held[key.permutation(np.flatnonzero(labels == label))[:share]] = True
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def prepare_data(config: RunConfig, dataset: DataSet) -> PreparedData:
    """The parts of `dataset`: training and validation out of its training split, by seed; each cut to the limits that are set."""
    train, val = split_validation(dataset.train.labels, config.data.val_fraction, config.seed)
    test = np.arange(len(dataset.test))
    key = Key(config.seed, "limit")
    return PreparedData(
        dataset,
        config.task.make_spec(dataset.inputs, dataset.targets),
        limit_examples(train, config.train.max_examples, key),
        limit_examples(val, config.eval.max_examples, key),
        limit_examples(test, config.eval.max_examples, key),
    )


def limit_examples(index: Index, limit: int | None, key: Key) -> Index:
    """`limit` of the examples `index`, chosen by `key`, in ascending order; all of them without a limit."""
    return index if limit is None else np.sort(key.permutation(index)[:limit])
