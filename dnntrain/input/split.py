"""Choose the examples that are held out for validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnntrain.config.run_config import RunConfig
from dnntrain.errors import ConfigError, DataError
from dnntrain.input.prepared import PreparedData
from dnntrain.input.source import DataSet, Source
from dnntrain.protocols import TargetKind
from dnntrain.utils.rng import Index, Key, derive_seed


def split_validation(source: Source, val_fraction: float, seed: int) -> tuple[Index, Index]:
    """Return (train, val) indices of the training split, each sorted.

    The names of the examples decide if they have any, so that other examples change nothing.
    Otherwise the split is stratified by class, if targets are classes. Both are keyed by `seed`.
    """
    key = Key(seed, "validation")
    is_class = source.labels.dtype.kind == "i" and source.labels.ndim == 1
    classes = source.labels if is_class else np.zeros(len(source.labels), np.int64)
    if source.keys is None:
        return hold_out_examples(classes, round(val_fraction * len(classes)), key)
    return hold_out_by_name(source.keys, classes, val_fraction, key)


def hold_out_by_name(names: Sequence[str], labels: NDArray[Any], fraction: float, key: Key) -> tuple[Index, Index]:
    """Return (kept, held out) indices, each sorted, with about `fraction` of the examples held out.

    `labels` are int [n] class numbers, or float [n, labels] of 0 and 1.

    An example is held out if the hash of its name with `key`, uniform in [0, 1), is below
    `fraction`. Adding, removing or renaming other examples does not change it, with two exceptions
    for tiny sets: if none is held out, that with the smallest hash is; and a class or a label keeps the
    example with its largest hash. Examples with one name are never divided.
    """
    hashes = np.array([_hash_name(name, key) for name in names])
    is_held = hashes < fraction
    if fraction > 0 and len(names) > 1 and not is_held.any():
        is_held = hashes == hashes.min()
    is_of_class = labels.T != 0 if labels.ndim == 2 else (labels == label for label in np.unique(labels))
    for of_class in map(np.flatnonzero, is_of_class):
        if len(of_class) and is_held[of_class].all():
            is_held[hashes == hashes[of_class].max()] = False
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def is_held_out(name: str, fraction: float, key: Key) -> bool:
    """Return whether `hold_out_by_name` holds out an example of a large set."""
    return _hash_name(name, key) < fraction


def _hash_name(name: str, key: Key) -> float:
    return float(np.float64(derive_seed(key.seed, key.stream, name)) / 2.0**63)


def hold_out_examples(labels: NDArray[np.int64], count: int, key: Key) -> tuple[Index, Index]:
    """Return (kept, held out) indices, each sorted, with `count` held out.

    Classes are held out in equal proportion. Each class gives its exact share rounded down; the
    classes with the largest remainders give the rest. A class keeps at least one example if it can,
    so fewer than `count` may be held out if classes are tiny. `key` and the number of an example
    decide whether it is held out.
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
    """Split `dataset` by seed into training, validation and test examples.

    Each split is cut to its configured limit. A debugging run has the examples of one batch at least.
    Raises ConfigError if the data do not suit the task or the sampler.
    """
    _check_sampler(config, dataset)
    if dataset.val_index is None:
        train, val = split_validation(dataset.train, config.data.val_fraction, config.seed)
    else:
        train, val = np.setdiff1d(np.arange(len(dataset.train)), dataset.val_index), dataset.val_index
    test = np.arange(len(dataset.test))
    if config.folds is not None:
        part = find_fold(dataset.train, config.folds, config.fold or 0, config.seed)
        train, val, test = np.setdiff1d(train, part), np.setdiff1d(val, part), part
        dataset = replace(dataset, test=dataset.train)
    key = Key(config.seed, "limit")
    limit = config.train.max_examples
    if limit is not None and config.is_debugging:
        limit = max(limit, config.train.batch_size)
    return PreparedData(
        dataset,
        config.task.make_spec(dataset.inputs, dataset.targets),
        limit_examples(train, limit, key),
        limit_examples(val, config.eval.max_examples, key),
        limit_examples(test, config.eval.max_examples, key),
    )


def find_fold(source: Source, folds: int, fold: int, seed: int) -> Index:
    """Return the examples of part `fold` of `folds`, sorted.

    Examples with one name are in one part. Each class is divided evenly; all is keyed by `seed`.
    Raises DataError if there are fewer names than parts.
    """
    key = Key(seed, "folds")
    names = np.arange(len(source)) if source.keys is None else np.unique(source.keys, return_inverse=True)[1]
    groups, first = np.unique(names, return_index=True)
    if len(groups) < folds:
        raise DataError(
            f"folds={folds} is more than the {len(groups)} groups of the training split", f"use folds={len(groups)}"
        )
    is_class = source.labels.dtype.kind == "i" and source.labels.ndim == 1
    classes = source.labels[first] if is_class else np.zeros(len(groups), np.int64)
    order = np.lexsort((key.bits(first), classes))
    parts = np.empty(len(groups), np.int64)
    parts[order] = np.arange(len(groups)) % folds
    return np.flatnonzero(parts[np.searchsorted(groups, names)] == fold)


def _check_sampler(config: RunConfig, dataset: DataSet) -> None:
    if config.data.sampler != "balanced":
        return
    if dataset.targets.kind is not TargetKind.CLASS:
        raise ConfigError(
            f"data.sampler=balanced needs {TargetKind.CLASS.value}; the data have {dataset.targets.kind.value}",
            "use data.sampler=shuffled",
        )
    if repeating := [name for name, method in config.augment.items() if method.copies > 1]:
        raise ConfigError(
            f"data.sampler=balanced does not support augment.{repeating[0]}, since both repeat examples",
            f"use data.sampler=shuffled, or leave augment.{repeating[0]} out",
        )


def limit_examples(index: Index, limit: int | None, key: Key) -> Index:
    """Return `limit` of the examples `index`, chosen by `key`, in ascending order.

    All of them without a limit.
    """
    return index if limit is None else np.sort(key.permutation(index)[:limit])
