"""data=image_table: images named in a CSV with a class, labels or numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_files import refusal, write_images

from dnntrain.choices.data.image_table import ImageTable
from dnntrain.errors import DataError
from dnntrain.protocols import TargetKind


@pytest.fixture
def table(tmp_path: Path) -> Path:
    paths = write_images(tmp_path, count=10)
    lines = ["image,species,tags,weight,big,small"]
    for number, path in enumerate(paths):
        tags = ";".join(["fur"] * (number % 2) + ["tail"] * (number % 3 == 0))
        lines.append(
            f"{path.relative_to(tmp_path)},{path.parent.name},{tags},{number * 1.5},{number % 2},{1 - number % 2}"
        )
    file = tmp_path / "photos.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def options(file: Path, **changes: object) -> ImageTable:
    values = {"file": str(file), "target": ("species",), "image_size": 8, "test_fraction": 0.3, **changes}
    return ImageTable(**values)  # type: ignore[arg-type]


def test_texts_are_classes(table: Path) -> None:
    dataset = options(table).build()
    assert (dataset.targets.names, dataset.targets.kind) == (("cat", "dog"), TargetKind.CLASS)
    assert len(dataset.train) + len(dataset.test) == 20
    assert dataset.train.read(0).shape == (3, 8, 8)


def test_numbers_are_standardized(table: Path) -> None:
    dataset = options(table, target=("weight",)).build()
    assert dataset.targets.kind is TargetKind.NUMBERS
    assert abs(float(dataset.train.labels.mean())) < 1e-12


def test_labels_are_texts_with_separators_or_columns(table: Path) -> None:
    by_text = options(table, target=("tags",), target_type="labels").build()
    assert (by_text.targets.names, by_text.targets.kind) == (("fur", "tail"), TargetKind.LABELS)
    by_column = options(table, target=("big", "small"), target_type="labels").build()
    assert by_column.targets.names == ("big", "small")
    assert np.array_equal(by_column.train.labels.sum(1), np.ones(len(by_column.train)))


def test_a_trained_model_judges_images_of_one_class_and_skips_those_without(table: Path) -> None:
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:4], lines[4].replace(",cat,", ",,")]) + "\n")
    with pytest.raises(DataError):
        options(table).build()
    dataset = options(table, group="patient").build_for_evaluation()
    assert dataset.targets.names == ("cat",)
    assert len(dataset.train) + len(dataset.test) == 3
    table.write_text("\n".join(lines[:2]) + "\n")
    dataset = options(table).build_for_evaluation()
    assert (len(dataset.train), len(dataset.test)) == (1, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": "picture"}, ("data.image=picture", "does not have this column")),
        ({"target": ("weigth",)}, ("data.target=weigth", "'weight'")),
        ({"root": "/nowhere"}, ("20 images of 20 cannot be found", "row 1")),
        ({"target": ("big", "weight"), "target_type": "labels"}, ("label weight must be 0 or 1", "1.5 in row 2")),
    ],
)
def test_mistakes_name_the_column_and_the_row(table: Path, changes: dict[str, object], words: tuple[str, ...]) -> None:
    refusal(options(table, **changes).build, *words)
