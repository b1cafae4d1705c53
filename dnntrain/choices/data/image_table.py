"""Your own pictures, named by a table with a class, labels or numbers for each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dnntrain.choices.data._image_files import ImageFiles
from dnntrain.choices.data._table import check_layout, hold_out_rows, lists_labels
from dnntrain.config.fields import Literal
from dnntrain.errors import ConfigError, DataError
from dnntrain.input.file_source import FileSource
from dnntrain.input.source import DataSet, compute_digest
from dnntrain.input.table_columns import check_column_names
from dnntrain.input.table_file import Table, check_table_file, read_table, to_texts
from dnntrain.input.table_targets import check_targets, drop_unlabeled, find_target_spec, make_labels, make_strata
from dnntrain.utils.units import pluralize


@dataclass(frozen=True)
class ImageTable(ImageFiles):
    """Images at the paths in a column, with the targets in other columns.

    A part of the images is kept for the test; the path of an image, or its group, decides.
    """

    label_key: ClassVar[str] = "file"
    place_options: ClassVar[tuple[str, ...]] = ("file", "root")

    file: str | None = None  # CSV, TSV or Parquet file with a row for each image
    root: str | None = None  # folder of the images; null: the folder of the file
    image: str = "image"  # name of the column with the paths of the images, relative to root
    target: tuple[str, ...] = ()  # name of the column to predict; several names: numbers, or labels that are 0 or 1
    target_type: Literal["auto", "class", "labels", "number"] = (
        "auto"  # class, labels (texts separated by ;, or columns of 0 and 1), number, or auto (texts: class; else number)
    )
    group: str | None = None  # name of a column; images with the same value are in the same split

    def check_files(self) -> None:
        check_table_file(self._get_file())

    def build(self) -> DataSet:
        return self._build()

    def build_for_evaluation(self) -> DataSet:
        return self._build(is_evaluation=True)

    def _build(self, is_evaluation: bool = False) -> DataSet:
        file = self._get_file()
        is_text = self.target_type in ("class", "labels") and len(self.target) == 1
        table = read_table(file, (self.image, *(self.target if is_text else ())))
        check_column_names(table, [self.image], "data.image")
        group = None if is_evaluation and self.group not in table.columns else self.group
        check_layout(table, self.target, group)
        if is_evaluation:
            table = drop_unlabeled(table, self.target, self.target_type)
        check_targets(table, self.target, self.target_type)
        root = Path(self.root).expanduser() if self.root is not None else file.parent
        self._check_images(table, root)
        keys = to_texts(table.columns[group or self.image]).tolist()
        strata = make_strata(table, self.target, self.target_type, is_evaluation)
        train, test, train_keys = hold_out_rows(table, keys, strata, self.test_fraction, is_evaluation)
        targets = find_target_spec(train, self.target, self.target_type, test if is_evaluation else None)
        labels = {id(part): make_labels(part, self.target, targets) for part in (train, test)}
        return DataSet(
            train=self._make_source(train, root, labels[id(train)], train_keys),
            test=self._make_source(test, root, labels[id(test)], None),
            inputs=self.input_spec,
            targets=targets,
            digest=compute_digest(
                ["image_table", self.image, *self.target, *table.row_keys, *self._list_sizes(table, root)]
            ),
            has_test_part=False,
            lists_labels=lists_labels(self.target, self.target_type),
        )

    def _get_file(self) -> Path:
        if self.file is None or not self.target:
            raise ConfigError(
                "data=image_table needs a file and a target", "as in data.file=photos.csv data.target=[species]"
            )
        return Path(self.file).expanduser()

    def _check_images(self, table: Table, root: Path) -> None:
        missing = [
            (int(number), name)
            for number, name in zip(table.numbers, table.columns[self.image].tolist(), strict=True)
            if not name or not (root / name).is_file()
        ]
        if missing:
            number, name = missing[0]
            raise DataError(
                f"{table.path}: {pluralize(len(missing), 'image')} of {len(table)} cannot be found, first in row "
                f"{number}: {root / name}",
                "set data.root=FOLDER to the folder that the paths begin in",
            )

    def _list_sizes(self, table: Table, root: Path) -> list[str]:
        return [str((root / name).stat().st_size) for name in table.columns[self.image].tolist()]

    def _make_source(self, table: Table, root: Path, labels: NDArray[Any], keys: tuple[str, ...] | None) -> FileSource:
        paths = [root / name for name in table.columns[self.image].tolist()]
        size_bytes = len(paths) * self.channels * math.prod(self.input_size)
        return FileSource(
            paths,
            labels,
            self.input_size,
            self.channels,
            self.keeps_decoded(size_bytes),
            self.on_error == "skip",
            keys if keys is not None else tuple(np.array([str(path) for path in paths])),
            self.reading,
        )
