"""Read a table from a CSV or Parquet file: columns of numbers or of texts."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnntrain.errors import ConfigError, DataError
from dnntrain.utils.rng import Index

#: The suffixes of files that hold a table.
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")

#: Texts of a missing value, in lower case.
MISSING_TEXTS = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-"})

_MAX_CELL_CHARACTERS = 1 << 16

Values = NDArray[Any]


@dataclass(frozen=True)
class Table:
    """The columns of a file by name, in order, each [rows].

    A column of numbers is float64, with NaN for missing values. A column of texts holds str, with ""
    for missing values.

    row_keys  a digest of each row, equal for equal rows
    numbers   the number of each row in the file, from 1 on
    """

    path: Path
    columns: Mapping[str, Values]
    row_keys: Sequence[str]
    numbers: Index

    def __len__(self) -> int:
        return len(self.row_keys)

    @property
    def names(self) -> list[str]:
        return list(self.columns)

    def is_number(self, name: str) -> bool:
        """Return whether the column `name` holds numbers."""
        return self.columns[name].dtype.kind == "f"

    def select(self, index: Index) -> Table:
        """Return the rows `index`."""
        columns = {name: values[index] for name, values in self.columns.items()}
        return Table(self.path, columns, [self.row_keys[row] for row in index.tolist()], self.numbers[index])


def is_table_file(path: Path) -> bool:
    """Return whether the name of `path` is that of a table."""
    return path.suffix.lower() in TABLE_SUFFIXES


def check_table_file(path: Path) -> None:
    """Raise DataError if `path` is not a file that can hold a table. This reads nothing."""
    if path.is_dir() or not path.exists():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {kind}", "name a file: data.file=TABLE.csv")
    if not is_table_file(path):
        raise DataError(f"{path}: the suffix must be one of {', '.join(TABLE_SUFFIXES)}", "convert it to CSV")


def read_table(path: Path, text_columns: Sequence[str] = ()) -> Table:
    """Return the table in `path`.

    A column whose values are all numbers is one of numbers, unless `text_columns` names it. Raises
    DataError, which names the file and the row, if it cannot be read.
    """
    check_table_file(path)
    columns = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    if not columns or not len(next(iter(columns.values()))):
        raise DataError(f"{path} has no rows", "the first line must name the columns, the others hold the values")
    row_keys = make_row_keys(list(columns.values()))
    parsed = {name: values if name in text_columns else parse_numbers(values) for name, values in columns.items()}
    return Table(path, parsed, row_keys, np.arange(1, len(row_keys) + 1))


def make_row_keys(columns: Sequence[Values]) -> list[str]:
    """Return a digest of the texts of each row."""
    return [
        hashlib.blake2b("\x1f".join(row).encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
        for row in zip(*(values.tolist() for values in columns), strict=True)
    ]


def parse_numbers(texts: Values) -> Values:
    """Return the texts [n] as float64 if every text that is not missing is a number, else as they are."""
    unique, inverse = np.unique(texts, return_inverse=True)
    numbers = [parse_number(text) for text in unique.tolist()]
    if any(number is None for number in numbers) or all(np.isnan(number) for number in numbers if number is not None):
        return texts
    return np.array(numbers, dtype=np.float64)[inverse]


def parse_number(text: str) -> float | None:
    """Return the number in `text`, NaN for a missing one, None if it is another text."""
    if text.lower() in MISSING_TEXTS:
        return float("nan")
    try:
        number = float(text)
    except ValueError:
        return None
    return number if "_" not in text and np.isfinite(number) else None


def to_texts(values: Values) -> Values:
    """Return a column as texts: 3 for 3.0, and "" for a missing number."""
    if values.dtype.kind != "f":
        return values
    return np.array(["" if np.isnan(value) else f"{value:.15g}" for value in values.tolist()], dtype=object)


def _read_csv(path: Path) -> dict[str, Values]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first_line = file.readline(_MAX_CELL_CHARACTERS)
            file.seek(0)
            rows = list(csv.reader(file, delimiter=_find_delimiter(path, first_line), skipinitialspace=True))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "name another file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8", "save the file as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file: {error}", "save it with quotes around texts with commas") from None
    header, *body = rows or [[]]
    names = [name.strip() for name in header]
    _check_names(path, names)
    body = [row for row in body if row]
    for number, row in enumerate(body, 1):
        if len(row) != len(names):
            raise DataError(
                f"{path}: row {number} has {len(row)} values, but there are {len(names)} columns",
                "quote texts that contain the delimiter",
            )
    texts = [[_clean(cell) for cell in row] for row in body]
    return {name: np.array([row[place] for row in texts], dtype=object) for place, name in enumerate(names)}


def _clean(text: str) -> str:
    text = text.strip()
    return "" if text.lower() in MISSING_TEXTS else text


def _find_delimiter(path: Path, first_line: str) -> str:
    """Return the delimiter that the header has most often."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    return max(",;\t|", key=lambda delimiter: first_line.count(delimiter))


def _check_names(path: Path, names: Sequence[str]) -> None:
    if not names or any(not name for name in names):
        place = next((place for place, name in enumerate(names, 1) if not name), 1)
        raise DataError(f"{path}: column {place} has no name", "the first line must name every column")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}: several columns are called {', '.join(repeated)}", "give each column its own name")


def _read_parquet(path: Path) -> dict[str, Values]:
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise ConfigError(
            f"{path}: a Parquet file needs pyarrow", "run: pip install 'dnntrain[table]', or save the table as CSV"
        ) from None
    try:
        table = parquet.read_table(path)
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}", "write it again, or save it as CSV") from None
    _check_names(path, table.column_names)
    return {
        name: np.array([_to_text(value) for value in table.column(name).to_pylist()], dtype=object)
        for name in table.column_names
    }


def _to_text(value: Any) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else _clean(str(value))
