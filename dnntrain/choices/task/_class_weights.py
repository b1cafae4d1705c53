"""Weights of classes or labels in the loss: by their frequency, or from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnntrain.errors import ConfigError, DataError
from dnntrain.input.table_file import check_table_file, is_table_file, read_table
from dnntrain.utils.suggest import did_you_mean

_WORDS = ("none", "balanced")


def check_weights_option(option: str, value: str) -> None:
    """Raise ValueError if `value` is neither none, balanced, nor the name of a table.

    The file need not exist: a trained model is loaded without it.
    """
    if value not in _WORDS and not is_table_file(Path(value)):
        raise ValueError(f"{option}={value} is not the name of a table; use {option}=balanced, none, or a CSV file")


def check_weights_file(option: str, value: str) -> None:
    """Raise ConfigError if `value` names a file that does not exist."""
    if value not in _WORDS:
        try:
            check_table_file(Path(value).expanduser())
        except DataError as error:
            raise ConfigError(
                f"{option}={value}: {error.message}", f"use {option}=balanced, none, or a CSV file"
            ) from None


def compute_class_weights(option: str, value: str, names: Sequence[str], labels: NDArray[Any]) -> tuple[float, ...]:
    """Return the weight of each class.

    "balanced" is examples / (classes that occur × examples of the class), so that all classes have the
    same weight together, and the mean weight of an example is 1; a class without examples has the weight
    0, which label smoothing would multiply otherwise. A file has the columns class and
    weight, and a row for each class.
    """
    if value == "balanced":
        counts = np.bincount(labels, minlength=len(names))
        weights = np.where(counts > 0, len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1)), 0.0)
        return tuple(weights.tolist())
    weights_by_name = _read_weights(option, Path(value).expanduser())
    for name in weights_by_name:
        if name not in names:
            raise ConfigError(
                f"{option}={value}: the data do not have a class {name!r}", did_you_mean(name, list(names))
            )
    if missing := [name for name in names if name not in weights_by_name]:
        raise ConfigError(
            f"{option}={value}: there is no weight of {', '.join(missing[:8])}", "add a row for each class"
        )
    return tuple(weights_by_name[name] for name in names)


def compute_label_weights(option: str, value: str, names: Sequence[str], labels: NDArray[Any]) -> tuple[float, ...]:
    """Return the weight of the examples with each label, beside 1 for those without.

    "balanced" is the number of examples without the label over the number with it.
    """
    if value != "balanced":
        return compute_class_weights(option, value, names, labels)
    positives = labels.sum(0)
    return tuple((np.maximum(len(labels) - positives, 1) / np.maximum(positives, 1)).tolist())


def _read_weights(option: str, path: Path) -> dict[str, float]:
    table = read_table(path, ("class",))
    if set(table.names) != {"class", "weight"} or not table.is_number("weight"):
        raise ConfigError(f"{option}={path}: the columns must be class and weight, with a number as weight")
    weights = dict(zip(table.columns["class"].tolist(), table.columns["weight"].tolist(), strict=True))
    if any(not weight >= 0 for weight in weights.values()):
        raise ConfigError(f"{option}={path}: weights must be at least 0")
    return weights
