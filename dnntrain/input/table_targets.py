"""Read the targets of a table: classes, labels, or numbers that are standardized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnntrain.errors import DataError
from dnntrain.input.table_columns import measure_moments
from dnntrain.input.table_file import Table, parse_number, to_texts
from dnntrain.protocols import TargetKind, TargetSpec
from dnntrain.utils.messages import say_once
from dnntrain.utils.units import pluralize

#: Texts with more different values than this are not classes.
MAX_CLASSES = 1000


def find_target_spec(table: Table, names: Sequence[str], target_type: str, held_out: Table | None = None) -> TargetSpec:
    """Return the form of the targets in the columns `names`.

    `target_type` is "number", "class", "labels" or "auto": several columns, or one of numbers, are numbers.
    With `held_out`, the other rows, a trained model is evaluated: their classes count too, and one
    class, or equal numbers, are enough. Raises DataError if a value is of another kind.
    """
    tables = [table] if held_out is None else [table, held_out]
    if target_type == "labels":
        return TargetSpec(_find_labels(tables, names), TargetKind.LABELS)
    if _is_class(table, names, target_type):
        return _find_classes(tables, names)
    moments = [measure_moments(_get_numbers(table, name)) for name in names]
    for name, (_, _), values in zip(names, moments, (table.columns[name] for name in names), strict=True):
        if len(np.unique(values)) < 2 and held_out is None:
            raise DataError(f"{table.path}: the target {name} has the same value in all rows", "name another target")
    means, stds = (tuple(column) for column in zip(*moments, strict=True))
    return TargetSpec(tuple(names), TargetKind.NUMBERS, means, stds)


def drop_unlabeled(table: Table, names: Sequence[str], target_type: str) -> Table:
    """Return the rows that have all targets, and say how many do not. Raises DataError if there are none."""
    if target_type == "labels" and len(names) == 1:
        return table  # a row without labels
    is_missing = np.any([_is_missing(table, name) for name in names], axis=0)
    if not is_missing.any():
        return table
    count, targets = int(is_missing.sum()), ", ".join(names)
    if count == len(table):
        raise DataError(f"{table.path}: no row has the target {targets}", "predict for them: dnntrain predict RUN FILE")
    say_once(f"note: {table.path}: {pluralize(count, 'row')} without the target {targets} cannot be evaluated")
    return table.select(np.flatnonzero(~is_missing))


def check_targets(table: Table, names: Sequence[str], target_type: str) -> None:
    """Raise DataError, which names the row, if a target is missing, or a text instead of a number."""
    if target_type == "labels":
        _check_labels(table, names)
        return
    for name in names:
        _check_no_missing(table, name)
        if not _is_class(table, names, target_type):
            _get_numbers(table, name)


def _is_class(table: Table, names: Sequence[str], target_type: str) -> bool:
    return target_type == "class" or (target_type == "auto" and len(names) == 1 and not table.is_number(names[0]))


def make_labels(table: Table, names: Sequence[str], targets: TargetSpec) -> NDArray[Any]:
    """Return int64 [n] class numbers, float32 [n, labels] of 0 and 1, or float64 [n, targets] standardized numbers.

    Raises DataError, which names the row, if a value is not a class of `targets`.
    """
    if targets.kind is TargetKind.LABELS:
        return _make_label_rows(table, names, targets.names)
    if targets.kind is TargetKind.NUMBERS:
        numbers = np.stack([_get_numbers(table, name) for name in names], axis=1)
        standardized: NDArray[Any] = (numbers - np.array(targets.mean)) / np.array(targets.std)
        return standardized
    classes = {name: number for number, name in enumerate(targets.names)}
    texts = to_texts(table.columns[names[0]]).tolist()
    for row, text in enumerate(texts):
        if text not in classes:
            raise DataError(
                f"{table.path}: row {table.numbers[row]}: {names[0]}={text} is not a class of the training rows",
                f"the classes are {', '.join(targets.names[:8])}",
            )
    return np.array([classes[text] for text in texts], dtype=np.int64)


def make_strata(table: Table, names: Sequence[str], target_type: str, is_evaluation: bool = False) -> NDArray[Any]:
    """Return the classes or labels that a split must not lose: int64 [n], zeros if targets are numbers, or float32 [n, labels].

    Raises DataError as `find_target_spec` does; one class is enough if a trained model is evaluated.
    """
    targets = find_target_spec(table, names, target_type, table if is_evaluation else None)
    if targets.kind is TargetKind.NUMBERS:
        return np.zeros(len(table), np.int64)
    return make_labels(table, names, targets)


def _check_labels(table: Table, names: Sequence[str]) -> None:
    """Raise DataError if one of several columns of labels has another value than 0 and 1."""
    for name in names if len(names) > 1 else ():
        _check_no_missing(table, name)
        values = _get_numbers(table, name)
        if (is_wrong := (values != 0) & (values != 1)).any():
            row = int(np.flatnonzero(is_wrong)[0])
            raise DataError(
                f"{table.path}: the label {name} must be 0 or 1, but is {values[row]:g} in row {table.numbers[row]}",
                "correct the value, or use data.target_type=number",
            )


def _split_labels(text: str) -> list[str]:
    return [label.strip() for label in text.split(";") if label.strip()]


def _find_labels(tables: Sequence[Table], names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the labels: of the columns, or the texts in one column."""
    if len(names) > 1:
        return tuple(names)
    labels = sorted({label for text in _list_texts(tables, names[0]) for label in _split_labels(text)})
    if not (1 if len(tables) == 1 else 0) <= len(labels) <= MAX_CLASSES:
        raise DataError(
            f"{tables[0].path}: the target {names[0]} has {len(labels)} different labels; there must be 1 to {MAX_CLASSES}",
            "separate the labels of a row by ;",
        )
    return tuple(labels)


def _make_label_rows(table: Table, names: Sequence[str], labels: Sequence[str]) -> NDArray[np.float32]:
    if len(names) > 1:
        return np.stack([_get_numbers(table, name) for name in names], axis=1).astype(np.float32)
    rows = np.zeros((len(table), len(labels)), dtype=np.float32)
    places = {label: place for place, label in enumerate(labels)}
    for row, text in enumerate(to_texts(table.columns[names[0]]).tolist()):
        for label in _split_labels(text):
            if label not in places:
                raise DataError(
                    f"{table.path}: row {table.numbers[row]}: {label} is not a label of the training rows",
                    f"the labels are {', '.join(labels[:8])}",
                )
            rows[row, places[label]] = 1
    return rows


def _find_classes(tables: Sequence[Table], names: Sequence[str]) -> TargetSpec:
    if len(names) > 1:
        raise DataError(
            f"data.target=[{','.join(names)}] must be one column, since its values are classes",
            f"use data.target=[{names[0]}]",
        )
    texts = set(_list_texts(tables, names[0]))
    classes = sorted(texts, key=lambda text: (not text.replace(".", "").isdigit(), _to_number(text), text))
    if not (2 if len(tables) == 1 else 1) <= len(classes) <= MAX_CLASSES:
        raise DataError(
            f"{tables[0].path}: the target {names[0]} has {len(classes)} different values; "
            f"classes must be 2 to {MAX_CLASSES}",
            "name another target, or use data.target_type=number and task=regression",
        )
    return TargetSpec(tuple(classes))


def _list_texts(tables: Sequence[Table], name: str) -> list[str]:
    return [text for table in tables for text in to_texts(table.columns[name]).tolist()]


def _to_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _is_missing(table: Table, name: str) -> NDArray[np.bool_]:
    values = table.columns[name]
    return np.isnan(values) if table.is_number(name) else np.array([not text for text in values.tolist()])


def _check_no_missing(table: Table, name: str) -> None:
    is_missing = _is_missing(table, name)
    if is_missing.any():
        row = table.numbers[np.flatnonzero(is_missing)[0]]
        raise DataError(
            f"{table.path}: the target {name} is missing in {pluralize(int(is_missing.sum()), 'row')}, first in row {row}",
            "remove these rows, or name another target",
        )


def _get_numbers(table: Table, name: str) -> NDArray[np.float64]:
    if not table.is_number(name):
        row, text = next((row, text) for row, text in enumerate(table.columns[name].tolist()) if not _is_number(text))
        raise DataError(
            f"{table.path}: the target {name} must hold numbers, but row {table.numbers[row]} has {text!r}",
            "name another target, or use data.target_type=class and task=classification",
        )
    return table.columns[name]


def _is_number(text: str) -> bool:
    return parse_number(text) is not None
