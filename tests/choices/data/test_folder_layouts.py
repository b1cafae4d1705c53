"""What folders of images are taken for: the layouts of other tools, and the stability of held-out parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_files import refusal, write_images
from hypothesis import given, settings
from hypothesis import strategies as st

from dnntrain.choices.data._folder_layout import find_layout
from dnntrain.choices.data.image_folder import ImageFolder
from dnntrain.input.split import hold_out_by_name, split_validation
from dnntrain.utils.rng import Key


def _make(root: Path, *folders: str) -> None:
    for folder in folders:
        write_images(root / folder, count=3)


#: Folders with class folders in them → (train, val, test) as they are read, "." is the root itself.
LAYOUTS: dict[str, tuple[tuple[str, ...], tuple[str, str | None, str | None]]] = {
    "torchvision": (("train", "val"), ("train", None, "val")),
    "torchvision_three": (("train", "val", "test"), ("train", "val", "test")),
    "kaggle_capital": (("Train", "Test"), ("Train", None, "Test")),
    "kaggle_ing": (("Training", "Testing"), ("Training", None, "Testing")),
    "kaggle_ing_small": (("training", "testing"), ("training", None, "testing")),
    "kaggle_upper": (("TRAIN", "TEST"), ("TRAIN", None, "TEST")),
    "kaggle_valid": (("train", "valid"), ("train", None, "valid")),
    "roboflow": (("train", "valid", "test"), ("train", "valid", "test")),
    "hugging_face": (("train", "validation"), ("train", None, "validation")),
    "hugging_face_three": (("train", "validation", "test"), ("train", "validation", "test")),
    "ultralytics": (("train", "val", "test"), ("train", "val", "test")),
    "dev": (("train", "dev", "test"), ("train", "dev", "test")),
    "train_only": (("train",), ("train", None, None)),
    "training_set": (("training_set", "test_set"), ("training_set", None, "test_set")),
    "train_set": (("train_set", "val_set", "test_set"), ("train_set", "val_set", "test_set")),
    "dashes": (("train-data", "test-data"), ("train-data", None, "test-data")),
    "prefix": (("seg_train", "seg_test"), ("seg_train", None, "seg_test")),
    "prefix_three": (("x_train", "x_val", "x_test"), ("x_train", "x_val", "x_test")),
    "prefix_repeated": (
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("seg_train/seg_train", None, "seg_test/seg_test"),
    ),
    "flat": (("",), (".", None, None)),
    "wrapper_flat": (("images",), ("images", None, None)),
    "wrapper_splits": (("dataset/train", "dataset/test"), ("dataset/train", None, "dataset/test")),
    "wrapper_same_name": (("data/train", "data/val", "data/test"), ("data/train", "data/val", "data/test")),
    "mixed_case": (("Train", "VALID", "test"), ("Train", "VALID", "test")),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_of_another_tool_is_read(tmp_path: Path, name: str) -> None:
    folders, expected = LAYOUTS[name]
    _make(tmp_path, *folders)
    layout = find_layout(tmp_path)
    relative = [path and path.relative_to(tmp_path).as_posix() for path in (layout.train, layout.val, layout.test)]
    assert tuple(relative) == expected


@pytest.mark.parametrize("extra", ["__MACOSX", ".git", "runs/small_cnn/20260101-120000", "readme"])
def test_what_is_no_data_changes_nothing(tmp_path: Path, extra: str) -> None:
    write_images(tmp_path, count=20)
    before = ImageFolder(root=str(tmp_path), image_size=8).build()
    if extra == "readme":
        (tmp_path / "README.txt").write_text("not data")
    else:
        write_images(tmp_path / extra, count=2)
        (tmp_path / extra / "config.yaml").write_text("name: x")
    after = ImageFolder(root=str(tmp_path), image_size=8).build()
    assert after.targets.names == ("cat", "dog")
    assert [after.train.describe(i) for i in range(len(after.train))] == [
        before.train.describe(i) for i in range(len(before.train))
    ]


def test_classes_named_as_splits_are_classes(tmp_path: Path) -> None:
    for name in ("train", "plane", "car"):
        write_images(tmp_path, classes=(name,), count=20)
    assert ImageFolder(root=str(tmp_path), image_size=8).build().targets.names == ("car", "plane", "train")
    write_images(tmp_path / "other", classes=("test", "control"), count=20)
    assert ImageFolder(root=str(tmp_path / "other"), image_size=8).build().targets.names == ("control", "test")


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (("val", "test"), ("no folder for training",)),
        (("train", "Training"), ("may both be",)),
        (("train", "birds"), ("train/", "birds/")),
    ],
)
def test_what_may_be_read_in_two_ways_is_refused(
    tmp_path: Path, folders: tuple[str, ...], words: tuple[str, ...]
) -> None:
    _make(tmp_path, *folders)
    refusal(lambda: find_layout(tmp_path), *words)


def test_a_test_folder_without_labels_is_named_and_left(tmp_path: Path) -> None:
    _make(tmp_path, "train")
    write_images(tmp_path, classes=("test",), count=3)
    layout = find_layout(tmp_path)
    assert (layout.val, layout.test) == (None, None)
    assert "test/ holds images without class folders, and is not used" in layout.notes


def test_validation_images_are_those_of_their_folder(tmp_path: Path) -> None:
    _make(tmp_path, "train", "valid", "test")
    dataset = ImageFolder(root=str(tmp_path), image_size=8).build()
    assert dataset.val_index is not None
    assert {Path(dataset.train.describe(i)).parts[-3] for i in dataset.val_index.tolist()} == {"valid"}
    assert (len(dataset.train), len(dataset.val_index), len(dataset.test)) == (12, 6, 6)
    assert dataset.has_test_part


def test_a_split_may_lack_a_class_and_the_plan_says_so(tmp_path: Path) -> None:
    _make(tmp_path, "train")
    write_images(tmp_path / "test", classes=("dog",), count=3)
    dataset = ImageFolder(root=str(tmp_path), image_size=8).build()
    assert dataset.test.labels.tolist() == [1, 1, 1]
    assert "the test split has no image of cat" in dataset.notes


def test_other_files_are_counted(tmp_path: Path) -> None:
    write_images(tmp_path, count=20)
    for name in ("a.heic", "b.heic", "c.mp4"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    dataset = ImageFolder(root=str(tmp_path), image_size=8).build()
    assert "3 files of other kinds are not read: 2 .heic, 1 .mp4" in dataset.notes


_names = st.sets(st.text("abcdefgh", min_size=1, max_size=4), min_size=1, max_size=40)


@pytest.mark.slow
@given(names=_names, others=_names, fraction=st.floats(0.01, 0.99))
@settings(max_examples=200)
def test_a_held_out_part_does_not_depend_on_other_files(names: set[str], others: set[str], fraction: float) -> None:
    key = Key(0, "validation")
    few, many = sorted(names), sorted(names | others)
    # With the seed 0 the hash of n142 is 0.0006 and that of n966 is 0.9991: both sets have a held-out and a kept one.
    few, many = (["n142", "n966", *part] for part in (few, many))
    held_few = {few[i] for i in hold_out_by_name(few, np.zeros(len(few), np.int64), fraction, key)[1].tolist()}
    held_many = {many[i] for i in hold_out_by_name(many, np.zeros(len(many), np.int64), fraction, key)[1].tolist()}
    assert held_few == held_many & {*few}


def test_added_and_removed_images_move_no_other(tmp_path: Path) -> None:
    paths = write_images(tmp_path, count=60)

    def part_of() -> dict[str, str]:
        dataset = ImageFolder(root=str(tmp_path), image_size=8).build()
        train, val = split_validation(dataset.train, 0.1, seed=0)
        parts = [
            (dataset.train, train, "train"),
            (dataset.train, val, "val"),
            (dataset.test, np.arange(len(dataset.test)), "test"),
        ]
        return {source.describe(int(i)): name for source, index, name in parts for i in index}

    before = part_of()
    assert set(before.values()) == {"train", "val", "test"}
    for path in paths[::7]:
        path.unlink()
    (paths[1].parent / "0000-new.png").write_bytes(paths[1].read_bytes())
    paths[2].rename(paths[2].with_name("renamed.png"))
    after = part_of()
    kept = before.keys() & after.keys()
    assert len(kept) == 120 - len(paths[::7]) - 1
    assert all(before[name] == after[name] for name in kept)
