"""Serve the rows of a table, and normalize them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dnntrain.errors import DataError
from dnntrain.input.source import DataSet, Source
from dnntrain.input.table_columns import encode_rows
from dnntrain.input.table_file import Table, read_table
from dnntrain.input.token_source import match_vocabulary
from dnntrain.protocols import Column, ColumnKind, InputSpec, TargetSpec

if TYPE_CHECKING:
    from torch import Tensor


class RowArray:
    """Rows of numbers in memory, float32 [n, columns], less the offsets of their form, and their labels."""

    def __init__(self, rows: Tensor, labels: NDArray[Any], name: str, keys: Sequence[str] | None = None) -> None:
        self.rows = rows
        self.labels = labels
        self.keys = keys
        self.failures: dict[int, str] = {}
        self.name = name

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Tensor:
        return self.rows[index]

    def get_resident_inputs(self) -> Tensor:
        return self.rows

    def describe(self, index: int) -> str:
        return f"{self.name} {index}"

    def with_inputs(self, old: InputSpec, new: InputSpec) -> RowArray:
        """Return the same rows, which have the form `old`, as a model with the form `new` reads them.

        Raises DataError if the columns have other names.
        """
        import torch

        if old.columns != new.columns:
            raise DataError(
                f"the data set has {old.describe()}, the model reads {new.describe()}",
                "evaluate on data of the same form",
            )
        matched = copy.copy(self)
        shifts = torch.tensor(old.offsets, dtype=torch.float64) - torch.tensor(new.offsets, dtype=torch.float64)
        matched.rows = (self.rows.double() + shifts).float()
        return matched


class RowSource(RowArray):
    """The rows of `table` in memory, float32 [n, columns], and their targets.

    labels  int64 [n] class indices; float32 [n, labels] of 0 and 1; or float64 [n, targets] standardized
    keys    texts that decide which split holds a row
    """

    def __init__(self, table: Table, inputs: InputSpec, labels: NDArray[Any], keys: Sequence[str]) -> None:
        import torch

        super().__init__(torch.from_numpy(encode_rows(table, inputs)), labels, table.path.name, keys)
        self.table = table

    def describe(self, index: int) -> str:
        return f"{self.name} row {self.table.numbers[index]}"

    def with_inputs(self, old: InputSpec, new: InputSpec) -> RowSource:
        assert self.keys is not None
        return RowSource(self._read_texts(new.columns), new, self.labels, self.keys)

    def _read_texts(self, columns: Sequence[Column]) -> Table:
        """Return the table, with the texts of categories that look like numbers in this file."""
        texts = [
            column.name
            for column in columns
            if column.kind is ColumnKind.CATEGORY and column.name in self.table.columns
        ]
        if not any(self.table.is_number(name) for name in texts):
            return self.table
        return read_table(self.table.path, texts).select(self.table.numbers - 1)


def match_columns(dataset: DataSet, inputs: InputSpec) -> DataSet:
    """Return the data set with the columns or the tokens of a model; images stay as they are.

    Raises DataError if a column is missing, or holds texts instead of numbers, or if a text has
    characters that the model does not know.
    """
    if dataset.inputs.vocabulary is not None and inputs.vocabulary is not None:
        return match_vocabulary(dataset, inputs)
    if (dataset.inputs.columns, dataset.inputs.offsets) == (inputs.columns, inputs.offsets):
        return dataset
    sources: list[Source] = []
    for source in (dataset.train, dataset.test):
        if not isinstance(source, RowArray) or not inputs.columns:
            raise DataError(
                f"the data set has {dataset.inputs.describe()}, the model reads {inputs.describe()}",
                "evaluate on data of the same form",
            )
        sources.append(source.with_inputs(dataset.inputs, inputs))
    return replace(dataset, train=sources[0], test=sources[1], inputs=inputs)


def match_values(dataset: DataSet, targets: TargetSpec) -> DataSet:
    """Return the data set with the labels of the model, or numbers standardized as its targets are.

    Examples that list their labels may lack some of the model's. Raises DataError if the targets have
    other names.
    """
    if dataset.targets == targets:
        return dataset
    if dataset.lists_labels and set(dataset.targets.names) <= set(targets.names):
        places = [targets.names.index(name) for name in dataset.targets.names]
        return replace(
            dataset,
            train=_spread_labels(dataset.train, places, len(targets.names)),
            test=_spread_labels(dataset.test, places, len(targets.names)),
            targets=targets,
        )
    if dataset.targets.names != targets.names:
        raise DataError(
            f"the model predicts {', '.join(targets.names)}; the data have {', '.join(dataset.targets.names)}",
            f"set data.target=[{','.join(targets.names)}]",
        )
    sources = []
    for source in (dataset.train, dataset.test):
        numbers = source.labels * np.array(dataset.targets.std) + np.array(dataset.targets.mean)
        matched = copy.copy(source)
        matched.labels = (numbers - np.array(targets.mean)) / np.array(targets.std)
        sources.append(matched)
    return replace(dataset, train=sources[0], test=sources[1], targets=targets)


def _spread_labels(source: Source, places: Sequence[int], count: int) -> Source:
    """Return the source with its labels, float32 [n, labels], at `places` among `count` labels."""
    matched = copy.copy(source)
    matched.labels = np.zeros((len(source.labels), count), dtype=np.float32)
    matched.labels[:, places] = source.labels
    return matched
