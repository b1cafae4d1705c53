"""Your own table: a CSV or Parquet file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dnntrain.choices.data._table import TableData, TableLayout, build_table
from dnntrain.config.fields import Literal
from dnntrain.errors import ConfigError
from dnntrain.input.source import DataSet
from dnntrain.input.table_file import check_table_file, read_table


@dataclass(frozen=True)
class TableFile(TableData):
    """The rows of a file. Columns of numbers and of categories are found by their values.

    The first line names the columns. A part of the rows is kept for the test if there is no test file;
    the values of a row decide whether it belongs to it, so equal rows are never in two splits.
    """

    label_key: ClassVar[str] = "file"
    place_options: ClassVar[tuple[str, ...]] = ("file", "test_file")

    file: str | None = None  # CSV, TSV or Parquet file (.csv, .tsv, .parquet) with the training rows
    test_file: str | None = None  # file with the test rows; null: a part of the rows is held out
    target: tuple[str, ...] = ()  # name of the column to predict; several names: numbers, or labels that are 0 or 1
    target_type: Literal["auto", "class", "labels", "number"] = (
        "auto"  # class, labels (texts separated by ;, or columns of 0 and 1), number, or auto (texts: class; else number)
    )
    ignore: tuple[str, ...] = ()  # names of columns that the model does not read, such as an id
    categories: tuple[str, ...] = ()  # names of columns of numbers that are read as categories
    group: str | None = None  # name of a column; rows with the same value are in the same split

    def check_files(self) -> None:
        for file in self._list_files():
            check_table_file(file)

    def build(self) -> DataSet:
        return self._build()

    def build_for_evaluation(self) -> DataSet:
        return self._build(is_evaluation=True)

    def _build(self, is_evaluation: bool = False) -> DataSet:
        train_file, *test_files = self._list_files()
        train = read_table(train_file, self._list_text_columns())
        # A column of texts may hold nothing but numbers in the test file.
        texts = [name for name in train.names if not train.is_number(name)]
        test = read_table(test_files[0], texts) if test_files else None
        layout = TableLayout(self.target, self.ignore, self.categories, self.group, self.target_type)
        return build_table("table", train, test, layout, self.test_fraction, is_evaluation)

    def _list_files(self) -> list[Path]:
        if self.file is None:
            raise ConfigError("data=table needs a file", "as in data.file=cars.csv data.target=[price]")
        if not self.target:
            raise ConfigError("data=table needs a target", "name the column to predict, as in data.target=[price]")
        return [Path(name).expanduser() for name in (self.file, self.test_file) if name is not None]

    def _list_text_columns(self) -> tuple[str, ...]:
        is_text = self.target_type in ("class", "labels") and len(self.target) == 1
        return (*self.categories, *(self.target if is_text else ()))
