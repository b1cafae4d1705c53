"""What folders of images are taken for: the layouts of other tools, and the stability of held-out parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_files import refusal, write_images
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dnntrain.choices.data._class_folders import find_class_folders
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


#: Files, as other tools write them → (train, val, test) and the classes, or words of the refusal.
TREES: dict[str, tuple[str, tuple[str, str | None, str | None] | None, str]] = {
    "kaggle_train_images": (
        "train_images/{cat,dog}/1.jpg test_images/{cat,dog}/1.jpg train.csv sample_submission.csv",
        ("train_images", None, "test_images"),
        "cat dog",
    ),
    "kaggle_images_train": (
        "images_train/{cat,dog}/1.jpg images_test/{cat,dog}/1.jpg",
        ("images_train", None, "images_test"),
        "cat dog",
    ),
    "kaggle_two_wrappers": (
        "archive/chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}/1.jpeg",
        ("archive/chest_xray/train", "archive/chest_xray/val", "archive/chest_xray/test"),
        "NORMAL PNEUMONIA",
    ),
    "kaggle_unlabeled_test": (
        "asl_train/asl_train/{A,B}/1.jpg asl_test/asl_test/A_test.jpg",
        ("asl_train/asl_train", None, None),
        "A B",
    ),
    "imagenet_archive": (
        "ILSVRC/Data/CLS-LOC/train/{n01440764,n01443537}/1.JPEG ILSVRC/Data/CLS-LOC/{val,test}/1.JPEG "
        "ILSVRC/Annotations/1.xml ILSVRC/ImageSets/train.txt",
        ("ILSVRC/Data/CLS-LOC/train", None, None),
        "n01440764 n01443537",
    ),
    "imagenet_synsets": (
        "{train,val}/{n01440764,n01443537}/1.JPEG LOC_synset_mapping.txt",
        ("train", None, "val"),
        "n01440764 n01443537",
    ),
    "tiny_imagenet": (
        "train/{n01443537,n01629819}/images/1.JPEG val/images/1.JPEG val/val_annotations.txt test/images/2.JPEG",
        None,
        "does not have these classes: images",
    ),
    "hugging_face_metadata": (
        "train/1.png train/2.png train/metadata.csv",
        None,
        "labels in metadata.csv are not read",
    ),
    "roboflow_csv": (
        "train/1.jpg train/_classes.csv valid/2.jpg valid/_classes.csv",
        None,
        "_classes.csv are not read",
    ),
    "coco": (
        "train2017/1.jpg val2017/2.jpg annotations/instances_train2017.json",
        None,
        "train2017: there is no class folder in it",
    ),
    "inaturalist": ("train2019/{a,b}/1.jpg val2019/{a,b}/2.jpg", ("train2019", None, "val2019"), "a b"),
    "food101": (
        "images/{pizza,sushi}/1.jpg meta/train.txt meta/classes.txt README.txt",
        ("images", None, None),
        "pizza sushi",
    ),
    "nested_classes": ("{cat,dog}/{indoor,outdoor}/1.jpg", (".", None, None), "cat dog"),
    "csv_beside_folders": ("{cat,dog}/1.jpg labels.csv LICENSE.txt", (".", None, None), "cat dog"),
    "one_class": ("cat/1.jpg cat/2.jpg", None, "holds only one class (cat)"),
    "empty_class": ("{cat,dog}/1.jpg bird/", None, "class bird has no images"),
    "mixed_case_classes": ("train/{Cat,Dog}/1.jpg test/{cat,dog}/2.jpg", None, "does not have these classes: cat, dog"),
    "linked_classes": ("cat/1.jpg elsewhere/dog/1.jpg dog->elsewhere/dog", (".", None, None), "cat dog elsewhere"),
    "linked_splits": ("raw/{a,b}/1.jpg train->raw test->raw", ("train", None, "test"), "a b"),
    "copy_of_itself": ("flowers/{rose,tulip}/1.jpg {rose,tulip}/1.jpg", None, "so it is a copy of the data"),
    "archive_with_tools": (
        "pets/{Cat,Dog}/1.jpg pets/Cat/Thumbs.db __MACOSX/pets/1.jpg",
        ("pets", None, None),
        "Cat Dog",
    ),
}


def _expand(pattern: str) -> list[str]:
    """Return the names of a pattern with {a,b}, as a shell has it."""
    head, brace, rest = pattern.partition("{")
    if not brace:
        return [pattern]
    options, _, tail = rest.partition("}")
    return [name for option in options.split(",") for name in _expand(f"{head}{option}{tail}")]


def _make_tree(root: Path, text: str) -> None:
    for word in text.split():
        link, _, target = word.partition("->")
        if target:
            (root / link).symlink_to(root / target)
            continue
        for number, name in enumerate(_expand(word)):
            path = root / name
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
                Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(path, "PNG")
            elif not name.endswith("/"):
                path.write_text("1.jpg,cat")


@pytest.mark.parametrize("name", TREES)
def test_a_tree_of_another_tool_is_read_or_rejected(tmp_path: Path, name: str) -> None:
    text, expected, words = TREES[name]
    _make_tree(tmp_path, text)
    if expected is None:
        refusal(ImageFolder(root=str(tmp_path)).build, words)
        return
    layout = find_layout(tmp_path)
    paths = [path and path.relative_to(tmp_path).as_posix() for path in (layout.train, layout.val, layout.test)]
    assert tuple(paths) == expected
    assert [path.name for path in find_class_folders(layout.train, 2)] == words.split()


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("{cat,dog}/1.jpg {cat,dog}/2.jpg 3.jpg", "1 image beside the class folders is not used"),
        (
            "fold1/{cat,dog}/1.jpg fold2/{cat,dog}/2.jpg",
            "all class folders hold the same folders (cat, dog): the outer folder is the class",
        ),
    ],
)
def test_a_place_that_may_not_be_meant_is_noted(tmp_path: Path, text: str, note: str) -> None:
    _make_tree(tmp_path, text)
    assert note in ImageFolder(root=str(tmp_path), image_size=8, test_fraction=0.6).build().notes


def test_forty_layouts_are_named() -> None:
    assert len(LAYOUTS) + len(TREES) >= 40


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
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
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
