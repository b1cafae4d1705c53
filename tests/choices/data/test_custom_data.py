"""A data set from the user's code: the forms of inputs and targets, and messages that name what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_code import write_mine

from dnntrain.choices.data.custom import CustomData
from dnntrain.config.fields import Arguments
from dnntrain.errors import ConfigError, DataError
from dnntrain.input.normalize import make_normalizer
from dnntrain.input.source import DataSet
from dnntrain.input.user_data import build_user_data
from dnntrain.protocols import InputKind, TargetKind

BYTES = np.arange(6 * 4 * 5, dtype=np.uint8).reshape(6, 4, 5)
CLASSES = np.array([0, 1, 2, 0, 1, 2])


def build(inputs: Any, targets: Any, kind: InputKind = InputKind.IMAGES) -> DataSet:
    return build_user_data(((inputs, targets), (inputs, targets)), kind, "data")


def refused(splits: Any, kind: InputKind = InputKind.IMAGES) -> str:
    with pytest.raises(DataError) as caught:
        build_user_data(splits, kind, "data")
    return str(caught.value)


@pytest.mark.parametrize(
    "images",
    [
        BYTES,
        BYTES[:, None],
        BYTES[..., None],
        torch.from_numpy(BYTES),
        torch.from_numpy(BYTES[:, None]),
        torch.from_numpy(BYTES[:, None]).float() / 255,
    ],
)
def test_every_form_of_an_image_gives_the_same_bytes(images: Any) -> None:
    dataset = build(images, CLASSES)
    assert dataset.inputs.shape == (1, 4, 5)
    assert dataset.digest == build(BYTES, CLASSES).digest
    assert torch.equal(dataset.train.read(3), torch.from_numpy(BYTES[3:4]))
    assert dataset.inputs.mean[0] == pytest.approx(BYTES.mean() / 255)
    assert dataset.inputs.std[0] == pytest.approx(BYTES.std() / 255)


def test_objects_with_items_are_read_like_arrays() -> None:
    pairs = [(image, int(label)) for image, label in zip(BYTES, CLASSES, strict=True)]
    assert build_user_data((pairs, pairs), InputKind.IMAGES, "data").digest == build(BYTES, CLASSES).digest


def test_a_validation_split_is_kept() -> None:
    split = (BYTES, CLASSES)
    dataset = build_user_data((split, (BYTES[:3], CLASSES[:3]), split), InputKind.IMAGES, "data")
    assert dataset.val_index is not None
    assert dataset.val_index.tolist() == [6, 7, 8]
    assert len(dataset.train) == 9


def test_rows_of_numbers_are_columns() -> None:
    rows = np.arange(12.0).reshape(6, 2)
    dataset = build(rows, rows[:, :1] * 2 + 1, InputKind.TABLE)
    assert [column.name for column in dataset.inputs.columns] == ["x0", "x1"]
    assert dataset.targets.kind is TargetKind.NUMBERS
    assert dataset.targets.mean == pytest.approx((11.0,))
    assert abs(dataset.train.labels.mean()) < 1e-12


def test_several_zeros_and_ones_are_labels() -> None:
    labels = np.array([[0, 1], [1, 1], [0, 0], [1, 0], [0, 1], [1, 1]])
    assert build(BYTES, labels).targets.kind is TargetKind.LABELS
    assert "targets must be integers in 0..1, but one is 2" in refused(((BYTES, labels), (BYTES, labels + 1)))


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (5, "must give (train, test)"),
        (((BYTES, CLASSES[:5]), (BYTES, CLASSES)), "6 inputs and 5 targets"),
        (((BYTES.astype(np.int64), CLASSES),) * 2, "must be uint8, not int64"),
        (((BYTES / 300, CLASSES),) * 2, "floats that are uint8 / 255"),
        (((BYTES[:, 0], CLASSES),) * 2, "must be an image [channels, height, width], not 5"),
        (((BYTES, CLASSES), (BYTES[:, :3], CLASSES)), "test has inputs of 1×3×5, train of 1×4×5"),
        (((BYTES, CLASSES), (BYTES, CLASSES + 1)), "test: targets must be integers in 0..2, but one is 3"),
        (((BYTES, np.array(list("abcabc"))),) * 2, "targets must be integers (classes)"),
        (((BYTES, np.zeros(6)),) * 2, "must be finite, and not the same"),
        (([], (BYTES, CLASSES)), "there are none"),
        (([1, 2], (BYTES, CLASSES)), "train example 0 must be a pair (input, target), not a int"),
    ],
)
def test_a_wrong_example_is_named(splits: Any, message: str) -> None:
    assert message in refused(splits)


def test_a_function_with_an_argument_train_is_called_for_each_split(tmp_path: Path) -> None:
    data = CustomData(file=str(write_mine(tmp_path)), name="make_bars", args=Arguments({"size": 12}))
    dataset = data.build()
    assert (len(dataset.train), len(dataset.test), dataset.inputs.shape) == (300, 90, (1, 12, 12))
    assert data.list_code_options() == ("file",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "make_bar"}, "did you mean 'make_bars'?"),
        ({"name": None}, "name the one to use with data.name"),
        (
            {"name": "make_bars", "args": Arguments({"sise": 3})},
            "data.args.sise: make_bars does not have this argument",
        ),
        ({"file": None}, "data=custom needs data.file"),
        ({"file": "none.py"}, "data.file=none.py is not a file"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CustomData(**{"file": str(write_mine(tmp_path)), **options}).build()
    assert message in str(caught.value)


def test_objects_must_be_given_again() -> None:
    with pytest.raises(ConfigError, match="give it again"):
        CustomData(from_python=True).check_files()
    with pytest.raises(ValueError, match="from_python=true does not support"):
        CustomData(from_python=True, file="mine.py")


def test_rows_of_large_numbers_keep_their_differences() -> None:
    rows = np.stack([1.7e9 + 13.0 * np.arange(8), np.arange(8.0)], axis=1)
    dataset = build(rows, rows[:, 1:] * 2 + 1, InputKind.TABLE)
    stored = dataset.train.get_resident_inputs()
    assert stored is not None
    normal = make_normalizer(dataset.inputs, "cpu", False)(stored, torch.empty_like(stored)).numpy()
    assert np.abs(normal[:, 0] - normal[:, 1]).max() < 1e-5
