"""data=table: typed columns, missing values, targets by name, and mistakes that are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import refusal

from dnntrain.choices.data.table import TableFile
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import ConfigError, DataError
from dnntrain.input.normalize import make_normalizer
from dnntrain.input.row_source import match_columns
from dnntrain.input.split import split_validation
from dnntrain.input.table_file import read_table
from dnntrain.protocols import ColumnKind, TargetKind

CARS = """name,color,doors,power,price
a,red,2,50,1000
b,blue,4,NA,2500
c,,4,90,3000
d,red,2,70,1500.5
e,green,4,110,4000
f,blue,2,60,1200
"""


def write(tmp_path: Path, text: str = CARS, name: str = "cars.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def options(path: Path, **changes: object) -> TableFile:
    values = {"file": str(path), "target": ("price",), "ignore": ("name",), "test_fraction": 0.3, **changes}
    return TableFile(**values)  # type: ignore[arg-type]


def test_columns_are_typed_by_their_values(tmp_path: Path) -> None:
    path = write(tmp_path)
    dataset = options(path, test_file=str(path)).build()
    assert [(column.name, column.kind) for column in dataset.inputs.columns] == [
        ("color", ColumnKind.CATEGORY),
        ("doors", ColumnKind.NUMBER),
        ("power", ColumnKind.NUMBER),
        ("power", ColumnKind.IS_MISSING),
    ]
    assert dataset.inputs.columns[0].categories == ("blue", "green", "red")
    assert dataset.notes == (
        "numbers: doors, power",
        "categories: color (3)",
        "missing values: color (1), power (1)",
    )
    assert dataset.targets.kind is TargetKind.NUMBERS


def test_rows_are_standardized_with_missing_numbers_at_the_mean(tmp_path: Path) -> None:
    path = write(tmp_path)
    dataset = options(path, test_file=str(path)).build()
    rows = dataset.train.get_resident_inputs()
    assert rows is not None
    normal = make_normalizer(dataset.inputs, "cpu", False)(rows, torch.empty_like(rows))
    assert normal[:, 0].tolist() == [3, 1, 0, 3, 2, 1]
    assert normal[1, 2:].tolist() == [0, 1]
    assert abs(float(normal[:, 2].sum())) < 1e-5


def test_a_category_that_training_does_not_have_is_unknown(tmp_path: Path) -> None:
    test = write(tmp_path, CARS.replace("red", "pink"), "test.csv")
    dataset = options(write(tmp_path), test_file=str(test)).build()
    assert dataset.test.get_resident_inputs()[0, 0] == 0  # type: ignore[index]


def test_texts_are_classes_and_numbers_can_be(tmp_path: Path) -> None:
    path = write(tmp_path)
    by_color = options(path, target=("name",), ignore=(), test_file=str(path)).build()
    assert by_color.targets.names == tuple("abcdef")
    by_doors = options(path, target=("doors",), target_type="class", test_file=str(path)).build()
    assert (by_doors.targets.names, by_doors.train.labels.tolist()) == (("2", "4"), [0, 1, 1, 0, 1, 0])


def test_several_targets_are_numbers_in_their_order(tmp_path: Path) -> None:
    path = write(tmp_path)
    dataset = options(path, target=("price", "doors"), test_file=str(path)).build()
    assert dataset.targets.names == ("price", "doors")
    assert dataset.train.labels.shape == (6, 2)


def test_equal_rows_and_rows_of_a_group_are_in_one_split(tmp_path: Path) -> None:
    lines = [f"{number % 7},{number},{number % 3}" for number in range(70)]
    path = write(tmp_path, "patient,x,y\n" + "\n".join(lines * 2) + "\n")
    plain = TableFile(file=str(path), target=("y",)).build()
    assert not set(plain.train.keys) & set(plain.test.keys)
    grouped = TableFile(file=str(path), target=("y",), group="patient").build()
    assert [column.name for column in grouped.inputs.columns] == ["x"]
    train, val = split_validation(grouped.train, 0.3, seed=0)
    patients = [set(np.array(grouped.train.keys)[index]) for index in (train, val)]
    assert patients[1]
    assert not patients[0] & patients[1]
    test_patients = {f"{number:g}" for number in grouped.test.table.columns["patient"]}
    assert test_patients
    assert not (patients[0] | patients[1]) & test_patients


def test_adding_a_row_moves_no_other_row(tmp_path: Path) -> None:
    rows = [f"{number},{number * 7 % 11}" for number in range(100)]
    first, second = (
        write(tmp_path, "x,y\n" + "\n".join(part), name) for part, name in ((rows, "1.csv"), (["9,5", *rows], "2.csv"))
    )
    kept, more = (TableFile(file=str(path), target=("y",)).build() for path in (first, second))
    assert set(kept.test.table.row_keys) <= set(more.test.table.row_keys)


@pytest.mark.parametrize(
    ("changes", "text", "words"),
    [
        ({"target": ("prize",)}, CARS, ("data.target=prize", "did you mean 'price'")),
        ({"ignore": ("nam",)}, CARS, ("data.ignore=nam", "'name'")),
        ({"target_type": "number"}, CARS.replace("1500.5", "cheap"), ("target price must hold numbers", "'cheap'")),
        ({}, CARS.replace("1500.5", ""), ("target price is missing in 1 row,", "row 4")),
        ({}, CARS.replace("c,,4,90,3000", "c,,4,90"), ("row 3 has 4 values",)),
        ({}, CARS.replace("doors", "power"), ("several columns are called power",)),
        ({}, "name,price\n", ("has no rows",)),
        ({"ignore": ("name", "color", "doors", "power")}, CARS, ("no column besides the targets",)),
    ],
)
def test_mistakes_name_the_column_and_the_row(
    tmp_path: Path, changes: dict[str, object], text: str, words: tuple[str, ...]
) -> None:
    path = write(tmp_path, text)
    refusal(lambda: options(path, **changes).build(), *words)


def test_a_text_in_a_number_column_of_the_test_file_is_named(tmp_path: Path) -> None:
    test = write(tmp_path, CARS.replace(",70,", ",strong,"), "test.csv")
    refusal(
        lambda: options(write(tmp_path), test_file=str(test)).build(),
        "column power must hold numbers",
        "row 4",
        "'strong'",
    )


def test_a_class_that_training_does_not_have_is_named(tmp_path: Path) -> None:
    test = write(tmp_path, CARS.replace("a,red", "z,red"), "test.csv")
    mistake = options(write(tmp_path), target=("name",), ignore=(), test_file=str(test))
    refusal(mistake.build, "row 1", "name=z is not a class")


def test_names_are_not_categories(tmp_path: Path) -> None:
    lines = [f"person {number},{number % 5}" for number in range(50)]
    path = write(tmp_path, "who,y\n" + "\n".join(lines))
    refusal(lambda: TableFile(file=str(path), target=("y",)).build(), "who has", "data.ignore=[who]")


@pytest.mark.parametrize(("changes", "words"), [({"file": None}, "data.file="), ({"target": ()}, "data.target=")])
def test_a_file_and_a_target_are_needed(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match="data=table needs") as caught:
        options(write(tmp_path), **changes).check_files()
    assert words in caught.value.hint


def test_a_missing_file_is_found_early(tmp_path: Path) -> None:
    refusal(options(tmp_path / "none.csv").check_files, "none.csv does not exist")


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    assert read_table(write(tmp_path, CARS.replace(",", delimiter))).names == [
        "name",
        "color",
        "doors",
        "power",
        "price",
    ]


def test_a_parquet_file_is_read_or_its_package_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cars.parquet"
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        path.write_bytes(b"PAR1")
        with pytest.raises(ConfigError, match="needs pyarrow"):
            read_table(path)
        return
    columns = {"color": ["red", None, "blue"], "power": [50, None, 70.5], "price": [1, 2, 3]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    table = read_table(path)
    assert table.columns["color"].tolist() == ["red", "", "blue"]
    assert table.columns["power"].tolist()[::2] == [50.0, 70.5]
    assert np.isnan(table.columns["power"][1])
    path.write_bytes(b"PAR1 damaged")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_table(path)


def test_the_files_become_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = decode_config(
        compose(["task=regression", "data=table", "data.file=cars.csv", "data.target=[price]", "model=mlp"])
    )
    assert config.data.file == str(tmp_path / "cars.csv")  # type: ignore[attr-defined]


def test_large_numbers_keep_their_differences(tmp_path: Path) -> None:
    start = 1_700_000_000
    times = [start + 13 * row for row in range(40)]
    text = "time,price\n" + "".join(f"{time},{row % 7}\n" for row, time in enumerate(times))
    path = write(tmp_path, text)
    dataset = options(path, ignore=(), test_file=str(path)).build()
    rows = dataset.test.get_resident_inputs()
    assert rows is not None
    normal = make_normalizer(dataset.inputs, "cpu", False)(rows, torch.empty_like(rows))[:, 0].numpy()
    expected = (np.array(times, np.float64) - np.mean(times)) / np.std(times)
    assert np.abs(normal - expected).max() < 1e-6
    # Other rows are read as the model reads its own.
    later = write(tmp_path, text.replace("17000000", "17000001"), "later.csv")
    other = match_columns(options(later, ignore=(), test_file=str(later)).build(), dataset.inputs)
    rows = other.test.get_resident_inputs()
    assert rows is not None
    again = make_normalizer(dataset.inputs, "cpu", False)(rows, torch.empty_like(rows))[:, 0].numpy()
    moved = np.array([int(str(time).replace("17000000", "17000001")) for time in times], np.float64)
    assert again == pytest.approx((moved - np.mean(times)) / np.std(times), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("rare", [f"rare {number}" for number in range(8)])
def test_a_class_and_a_label_of_one_row_is_in_training(tmp_path: Path, rare: str) -> None:
    lines = [f"{number},{'ab'[number % 2]},{'x;y' if number % 3 else 'y'},{number // 2}" for number in range(40)]
    text = "\n".join(["size,kind,tags,owner", *lines, f"99,{rare},{rare};x,{rare}"]) + "\n"
    path = write(tmp_path, text)
    fraction = 0.5
    by_class = options(path, target=("kind",), ignore=("tags", "owner"), test_fraction=fraction).build()
    assert by_class.targets.names.index(rare) in by_class.train.labels
    by_label = options(
        path, target=("tags",), target_type="labels", ignore=("kind",), group="owner", test_fraction=fraction
    ).build()
    assert by_label.train.labels[:, by_label.targets.names.index(rare)].sum() == 1
    # Rows of one owner stay together.
    owners = [
        {number // 2 for number in split.get_resident_inputs()[:, 0].tolist()}
        for split in (by_label.train, by_label.test)
    ]
    assert not owners[0] & owners[1]


def test_texts_of_training_are_texts_in_every_file(tmp_path: Path) -> None:
    codes = "code,price\n" + "".join(f"{code},{number}\n" for number, code in enumerate(["01", "02", "A1", "01"] * 3))
    numeric = "code,price\n01,1\n02,2\n02,3\n01,4\n"
    train, test = write(tmp_path, codes), write(tmp_path, numeric, "test.csv")
    dataset = options(train, ignore=(), test_file=str(test)).build()
    assert dataset.test.get_resident_inputs()[:, 0].tolist() == [1, 2, 2, 1]  # type: ignore[index]
    other = match_columns(options(test, ignore=(), test_file=str(test)).build(), dataset.inputs)
    assert other.test.get_resident_inputs()[:, 0].tolist() == [1, 2, 2, 1]  # type: ignore[index]
    by_code = options(train, target=("code",), ignore=(), test_file=str(test)).build()
    assert [by_code.targets.names[label] for label in by_code.test.labels] == ["01", "02", "02", "01"]
