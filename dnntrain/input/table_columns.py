"""Find the typed columns of a table, and encode its rows as numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dnntrain.errors import DataError
from dnntrain.input.table_file import Table, Values, parse_number, to_texts
from dnntrain.protocols import Column, ColumnKind, InputSpec
from dnntrain.utils.suggest import did_you_mean

#: Texts with more different values than this are not categories, but names or free text.
MAX_CATEGORIES = 1000

_MAX_LISTED = 8


def check_column_names(table: Table, names: Sequence[str], key: str) -> None:
    """Raise DataError, with the nearest name, if the table does not have one of the columns `names`."""
    for name in names:
        if name not in table.columns:
            raise DataError(f"{key}={name}: {table.path} does not have this column", did_you_mean(name, table.names))


def find_input_columns(table: Table, names: Sequence[str], has_categories_of_model: bool = False) -> tuple[Column, ...]:
    """Return the columns that a model reads, found in the rows of `table`.

    A number with missing values has a column IS_MISSING behind it. Raises DataError if there is no column,
    or if one has too many different texts for categories, unless a model with its own categories reads it.
    """
    if not names:
        raise DataError(f"{table.path} has no column besides the targets", "name a table with inputs")
    columns: list[Column] = []
    too_many = []
    for name in names:
        values = table.columns[name]
        if table.is_number(name):
            columns.append(Column(name, ColumnKind.NUMBER))
            if np.isnan(values).any():
                columns.append(Column(name, ColumnKind.IS_MISSING))
            continue
        categories = tuple(sorted({text for text in values.tolist() if text}))
        if len(categories) > MAX_CATEGORIES or (len(categories) > 20 and 2 * len(categories) > len(values)):
            too_many.append(f"{name} has {len(categories)} different texts in {len(values)} rows")
        columns.append(Column(name, ColumnKind.CATEGORY, categories))
    if too_many and not has_categories_of_model:
        names_text = ",".join(text.partition(" has ")[0] for text in too_many)
        raise DataError(
            f"{table.path}: {'; '.join(too_many)}: too many for categories",
            f"leave the columns out: data.ignore=[{names_text}]",
        )
    return tuple(columns)


def make_input_spec(table: Table, columns: tuple[Column, ...]) -> InputSpec:
    """Return the form of rows with `columns`, with the mean and deviation of each number in `table`."""
    means, stds = [], []
    for column in columns:
        mean, std = 0.0, 1.0
        if column.kind is ColumnKind.NUMBER:
            mean, std = measure_moments(table.columns[column.name])
        means.append(mean)
        stds.append(std)
    return InputSpec((len(columns),), tuple(means), tuple(stds), columns)


def measure_moments(values: Values) -> tuple[float, float]:
    """Return mean and deviation of the numbers that are not missing; the deviation of a constant is 1."""
    present = values[~np.isnan(values)].astype(np.float64)
    if not len(present):
        return 0.0, 1.0
    std = float(present.std())
    return float(present.mean()), std if std > 1e-12 * max(1.0, float(np.abs(present).max())) else 1.0


def encode_rows(table: Table, inputs: InputSpec) -> NDArray[np.float32]:
    """Return the rows as float32 [n, columns]: numbers less `inputs.offsets`, and categories by number.

    A missing number is NaN.

    Raises DataError if a column is missing, or holds texts instead of numbers.
    """
    return np.stack([_encode_column(table, *pair) for pair in zip(inputs.columns, inputs.offsets, strict=True)], axis=1)


def _encode_column(table: Table, column: Column, offset: float) -> NDArray[np.float32]:
    if column.name not in table.columns:
        raise DataError(f"{table.path} does not have the column {column.name}", did_you_mean(column.name, table.names))
    values = table.columns[column.name]
    if column.kind is ColumnKind.CATEGORY:
        numbers = {category: number for number, category in enumerate(column.categories, 1)}
        return np.array([numbers.get(text, 0) for text in to_texts(values).tolist()], dtype=np.float32)
    if not table.is_number(column.name):
        if any(values.tolist()):
            row, text = next((row, text) for row, text in enumerate(values.tolist()) if not _is_number(text))
            raise DataError(
                f"{table.path}: column {column.name} must hold numbers, but row {table.numbers[row]} has {text!r}",
                "correct the value, or leave it empty if it is missing",
            )
        values = np.full(len(values), np.nan)
    if column.kind is ColumnKind.IS_MISSING:
        return np.isnan(values).astype(np.float32)
    with np.errstate(over="ignore"):
        numbers32: NDArray[np.float32] = (values - offset).astype(np.float32)
    if np.isinf(numbers32).any():
        row = table.numbers[np.flatnonzero(np.isinf(numbers32))[0]]
        raise DataError(f"{table.path}: column {column.name}, row {row}: the number is too large", "scale the column")
    return numbers32


def _is_number(text: str) -> bool:
    return parse_number(text) is not None


def describe_columns(table: Table, columns: Sequence[Column]) -> Iterator[str]:
    """Yield lines for the plan: the numbers, the categories, and the missing values."""
    numbers = [column.name for column in columns if column.kind is ColumnKind.NUMBER]
    if numbers:
        yield f"numbers: {_list_names(numbers)}"
    categories = [
        f"{column.name} ({len(column.categories)})" for column in columns if column.kind is ColumnKind.CATEGORY
    ]
    if categories:
        yield f"categories: {_list_names(categories)}"
    counts = {
        column.name: int(np.isnan(table.columns[column.name]).sum())
        if table.is_number(column.name)
        else sum(not text for text in table.columns[column.name].tolist())
        for column in columns
        if column.kind is not ColumnKind.IS_MISSING
    }
    missing = [f"{name} ({count})" for name, count in counts.items() if count]
    if missing:
        yield f"missing values: {_list_names(missing)}"


def _list_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more
