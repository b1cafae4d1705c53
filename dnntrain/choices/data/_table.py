"""Build a data set from a table: its columns, its targets, and the rows that are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from numpy.typing import NDArray

from dnntrain.config.fields import Annotated, Fraction, Literal, PositiveInt, Range
from dnntrain.errors import DataError
from dnntrain.input.row_source import RowSource
from dnntrain.input.source import DataSet, compute_digest
from dnntrain.input.split import hold_out_by_name
from dnntrain.input.table_columns import check_column_names, describe_columns, find_input_columns, make_input_spec
from dnntrain.input.table_file import Table, to_texts
from dnntrain.input.table_targets import check_targets, drop_unlabeled, find_target_spec, make_labels, make_strata
from dnntrain.protocols import DataChoice, DataFeature, InputKind
from dnntrain.utils.rng import Key

#: The test rows do not depend on the seed of a run.
_TEST_KEY = Key(2012, "table test")


@dataclass(frozen=True)
class TableData(DataChoice):
    """The rows of a table. A choice adds `build() -> DataSet`."""

    val_fraction: Fraction = 0.1  # fraction of the training rows held out for validation
    mix_block_size: PositiveInt = (
        8  # examples per block within which mixing methods pair examples, so that layouts agree
    )
    sampler: Literal["shuffled", "balanced"] = (
        "shuffled"  # order of an epoch: shuffled, or balanced (equally many examples of each class)
    )
    test_fraction: Annotated[float, Range(above=0, below=1)] = (
        0.2  # fraction of the rows held out for the test if there is no test file
    )

    input_kind: ClassVar[InputKind] = InputKind.TABLE
    features: ClassVar[frozenset[DataFeature]] = frozenset()

    @property
    def measures_training(self) -> bool:
        return True


@dataclass(frozen=True)
class TableLayout:
    """The use of each column: the targets, those that no model reads, and the group of a row.

    categories   columns of numbers that are read as categories
    target_type  "number", "class", "labels" or "auto", by the values
    """

    targets: Sequence[str]
    ignored: Sequence[str] = ()
    categories: Sequence[str] = ()
    group: str | None = None
    target_type: Literal["auto", "number", "class", "labels"] = "auto"


def build_table(
    name: str,
    train: Table,
    test: Table | None,
    layout: TableLayout,
    test_fraction: float,
    is_evaluation: bool = False,
) -> DataSet:
    """Return the data set of `train`, of which a part is the test split if there is no `test`.

    Columns, categories, means and deviations are those of the training rows. With `is_evaluation` a
    trained model judges the rows: those without a target are left out, and the columns are its own.
    """
    if is_evaluation:
        layout = replace(layout, group=layout.group if layout.group in train.columns else None)
    check_layout(train, layout.targets, layout.group)
    if is_evaluation:
        train = drop_unlabeled(train, layout.targets, layout.target_type)
        test = None if test is None else drop_unlabeled(test, layout.targets, layout.target_type)
    else:
        check_column_names(train, layout.ignored, "data.ignore")
        check_column_names(train, layout.categories, "data.categories")
    if test is not None:
        check_column_names(test, [column for column in train.names if column not in layout.ignored], "column")
    for table in filter(None, (train, test)):
        check_targets(table, layout.targets, layout.target_type)
    keys = train.row_keys if layout.group is None else to_texts(train.columns[layout.group]).tolist()
    digest = compute_digest([name, *layout.targets, *train.row_keys, *(() if test is None else test.row_keys)])
    has_test_part = test is not None
    if test is None:
        strata = make_strata(train, layout.targets, layout.target_type, is_evaluation)
        train, test, keys = hold_out_rows(train, keys, strata, test_fraction, is_evaluation)
    unread = {*layout.targets, *layout.ignored, *([] if layout.group is None else [layout.group])}
    names = [column for column in train.names if column not in unread]
    columns = find_input_columns(train, names, has_categories_of_model=is_evaluation)
    targets = find_target_spec(train, layout.targets, layout.target_type, test if is_evaluation else None)
    inputs = make_input_spec(train, columns)
    return DataSet(
        train=RowSource(train, inputs, make_labels(train, layout.targets, targets), keys),
        test=RowSource(test, inputs, make_labels(test, layout.targets, targets), test.row_keys),
        inputs=inputs,
        targets=targets,
        digest=digest,
        has_test_part=has_test_part,
        notes=tuple(describe_columns(train, columns)),
        lists_labels=lists_labels(layout.targets, layout.target_type),
    )


def lists_labels(targets: Sequence[str], target_type: str) -> bool:
    """Return whether one column lists the labels of a row, which then lacks all others."""
    return target_type == "labels" and len(targets) == 1


def check_layout(table: Table, targets: Sequence[str], group: str | None) -> None:
    """Raise DataError if the table does not have a column of the targets or of the group."""
    check_column_names(table, targets, "data.target")
    if group is not None:
        check_column_names(table, [group], "data.group")


def hold_out_rows(
    table: Table, keys: Sequence[str], strata: NDArray[Any], test_fraction: float, is_evaluation: bool = False
) -> tuple[Table, Table, tuple[str, ...]]:
    """Return the training rows, the test rows, and the keys of the training rows.

    The hash of a row's key decides. Each of the `strata`, classes int [n] or labels float [n, labels], is in
    the training rows. Raises DataError if one of the splits is empty, unless a trained model is evaluated,
    which needs one row.
    """
    train, test = hold_out_by_name(keys, strata, test_fraction, _TEST_KEY)
    if not is_evaluation and (not len(test) or not len(train)):
        raise DataError(
            f"{table.path}: data.test_fraction={test_fraction:g} leaves no {'test' if len(train) else 'training'} row",
            "use a table with more rows, or another data.test_fraction",
        )
    return table.select(train), table.select(test), tuple(keys[number] for number in train)
