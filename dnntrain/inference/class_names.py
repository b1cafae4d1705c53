"""Match the classes of a data set with those of a model by their names."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from dnntrain.errors import ConfigError, DataError
from dnntrain.input.source import DataSet, Source
from dnntrain.protocols import TargetSpec
from dnntrain.utils.messages import say_once
from dnntrain.utils.rng import Index
from dnntrain.utils.suggest import did_you_mean

_MAX_NAMES = 8


def match_classes(dataset: DataSet, targets: TargetSpec, renames: Mapping[str, str]) -> DataSet:
    """Return the data set with the class numbers of the model, whose targets are `targets`.

    `renames` maps names of the data to names of the model. The data may lack classes. Raises
    DataError if it has a class that the model does not have, ConfigError if a name of `renames` is
    unknown.
    """
    names, model_names = dataset.targets.names, targets.names
    _check_renames(renames, names, model_names)
    if names == model_names and not renames:
        return dataset
    renamed = [renames.get(name, name) for name in names]
    if unknown := [name for name, new_name in zip(names, renamed, strict=True) if new_name not in model_names]:
        free = [name for name in model_names if name not in renamed]
        raise DataError(
            f"the model does not have these classes of the data: {_list_names(unknown)}; "
            f"it has {_list_names(model_names)}",
            f"if they have other names there, add --map {unknown[0]}={(free or model_names)[0]}",
        )
    if len(set(renamed)) < len(renamed):
        raise ConfigError("--map gives two classes of the data the same name", "map each class to another one")
    numbers = np.array([model_names.index(name) for name in renamed], dtype=np.int64)
    if missing := [name for name in model_names if name not in renamed]:
        say_once(f"note: the data have no examples of {_list_names(missing)}")
    return replace(
        dataset,
        train=_relabel(dataset.train, numbers),
        test=_relabel(dataset.test, numbers),
        targets=targets,
    )


def _check_renames(renames: Mapping[str, str], names: tuple[str, ...], model_names: tuple[str, ...]) -> None:
    for old, new in renames.items():
        for name, known, owner in ((old, names, "the data"), (new, model_names, "the model")):
            if name not in known:
                raise ConfigError(
                    f"--map {old}={new}: {owner} does not have a class {name!r}", did_you_mean(name, list(known))
                )


def _relabel(source: Source, numbers: Index) -> Source:
    relabeled = copy.copy(source)
    relabeled.labels = numbers[source.labels]
    return relabeled


def _list_names(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


def parse_renames(text: str) -> dict[str, str]:
    """Return the renames in `photo=foto,cat=chat`. Raises ConfigError for another form."""
    pairs = [item.partition("=") for item in text.split(",") if item]
    if not all(old and new for old, _, new in pairs):
        raise ConfigError(f"--map {text}: must be pairs of names", "as in --map DATA_NAME=MODEL_NAME,kitten=cat")
    return {old.strip(): new.strip() for old, _, new in pairs}
