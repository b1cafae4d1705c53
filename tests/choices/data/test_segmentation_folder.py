"""data=segmentation_folder: images and masks of the same names, and mistakes that name the file."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import refusal
from PIL import Image

from dnntrain.choices.data._class_folders import describe_files
from dnntrain.choices.data.segmentation_folder import MaskFileSource, SegmentationFolder
from dnntrain.input.decoded_cache import fill_cache
from dnntrain.protocols import TargetKind

STEP = 40


def write_pair(folder: Path, name: str, mask: np.ndarray, split: str = "") -> Path:
    """Write a mask with a palette, and an image whose pixels show its classes."""
    for kind in ("images", "masks"):
        (folder / split / kind).mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask.astype(np.uint8), "P")
    picture.putpalette([(17 * value) % 256 for value in range(768)])
    picture.save(folder / split / "masks" / f"{name}.png")
    shown = np.repeat((mask * STEP).astype(np.uint8)[:, :, None], 3, axis=2)
    Image.fromarray(shown).save(folder / split / "images" / f"{name}.bmp")
    return folder / split / "masks" / f"{name}.png"


def make_mask(number: int, height: int = 16, width: int = 24) -> np.ndarray:
    mask = np.zeros((height, width), dtype=np.int64)
    mask[2 : 6 + number % 8, 4 : 12 + number % 10] = 1
    mask[height // 2 :, number % 12 : number % 12 + 6] = 2
    return mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(12):
        write_pair(tmp_path, f"photo{number}", make_mask(number))
    return tmp_path


def options(root: Path, **changes: object) -> SegmentationFolder:
    return SegmentationFolder(**{"root": str(root), "image_size": 16, "image_width": 24, **changes})  # type: ignore[arg-type]


def get_source(choice: SegmentationFolder) -> MaskFileSource:
    source = choice.build().train
    assert isinstance(source, MaskFileSource)
    return source


def test_a_mask_belongs_to_the_image_of_its_name(root: Path) -> None:
    dataset = options(root).build()
    assert (dataset.targets.kind, dataset.targets.names) == (TargetKind.MASK, ("class 0", "class 1", "class 2"))
    assert (len(dataset.train) + len(dataset.test), dataset.has_test_part) == (12, False)
    source = get_source(options(root))
    for number in range(len(source)):
        assert torch.equal(source.read(number)[0], source.read_mask(number) * STEP)


@pytest.mark.parametrize("resize", ["crop", "letterbox", "stretch"])
def test_a_mask_is_resized_as_its_image(tmp_path: Path, resize: str) -> None:
    mask = np.ones((40, 40), dtype=np.int64)
    mask[8:24, 16:32] = 2
    for number in range(4):
        write_pair(tmp_path, str(number), mask)
    source = get_source(options(tmp_path, image_size=20, image_width=30, resize=resize))
    image, found = source.read(0)[0], source.read_mask(0)
    assert found.shape == (20, 30)
    is_exact = (image == STEP) | (image == 2 * STEP)
    assert is_exact.float().mean() > 0.5
    expected = image[is_exact & (found < 255)]
    assert torch.equal((found[is_exact & (found < 255)] + 1) * STEP, expected)
    assert (found == 255).any() == (resize == "letterbox")


def test_the_splits_may_be_above_or_below_images_and_masks(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("val", 3), ("test", 2)):
        for number in range(count):
            write_pair(tmp_path / "above", f"{split}{number}", make_mask(number), split)
            write_pair(tmp_path / "flat", f"{split}{number}", make_mask(number), split)
    below = tmp_path / "below"
    for kind in ("images", "masks"):
        (below / kind).mkdir(parents=True)
        for split in ("train", "val", "test"):
            (tmp_path / "flat" / split / kind).rename(below / kind / split)
    for folder in (tmp_path / "above", below):
        dataset = options(folder).build()
        assert (len(dataset.train), len(dataset.test), dataset.has_test_part) == (8, 2, True)
        assert dataset.val_index is not None
        assert [dataset.train.describe(number).count("val") > 0 for number in dataset.val_index] == [True] * 3


def test_classes_have_names_and_values_from_a_file(root: Path) -> None:
    file = root / "classes.txt"
    file.write_text("0,sky\n2,tree\n1,road\n")
    dataset = options(root, classes=str(file)).build()
    assert dataset.targets.names == ("sky", "tree", "road")
    plain, named = get_source(options(root)), get_source(options(root, classes=str(file)))
    assert torch.equal(named.read_mask(0), torch.tensor([0, 2, 1], dtype=torch.uint8)[plain.read_mask(0).long()])
    file.write_text("sky\nroad\ntree\n")
    assert torch.equal(get_source(options(root, classes=str(file))).read_mask(0), plain.read_mask(0))


def test_colors_are_classes(tmp_path: Path) -> None:
    for number in range(5):
        path = write_pair(tmp_path, str(number), make_mask(number))
        colors = np.array([[0, 0, 0], [255, 0, 0], [0, 128, 255]], dtype=np.uint8)
        Image.fromarray(colors[make_mask(number)]).save(path)
    (tmp_path / "classes.txt").write_text("#000000,sky\n#FF0000,road\n#0080ff,tree\n")
    assert options(tmp_path).build().targets.names == ("class #000000", "class #0080ff", "class #ff0000")
    source = get_source(options(tmp_path, classes=str(tmp_path / "classes.txt")))
    assert torch.equal(source.read(0)[0], source.read_mask(0) * STEP)


def test_pixels_with_the_value_to_ignore_do_not_count(tmp_path: Path) -> None:
    for number in range(5):
        mask = make_mask(number)
        mask[0] = 255
        write_pair(tmp_path, str(number), mask)
    assert (get_source(options(tmp_path)).read_mask(0)[0] == 255).all()
    everything = options(tmp_path, ignore_value=None).build()
    assert everything.targets.names[-1] == "class 255"


def test_mistakes_name_the_file(root: Path) -> None:
    mask = root / "masks" / "photo3.png"
    Image.fromarray(np.zeros((16, 20), dtype=np.uint8)).save(mask)
    refusal(options(root).build, mask, "20x16", "photo3.bmp 24x16")
    write_pair(root, "photo3", make_mask(3) + 4)
    (root / "classes.txt").write_text("sky\nroad\ntree\n")
    refusal(options(root, classes=str(root / "classes.txt")).build, mask, "the value 4 of a pixel is not a class")
    mask.write_bytes(b"not a picture")
    refusal(options(root).build, mask, "cannot be decoded")
    mask.unlink()
    refusal(options(root).build, "photo3.bmp", "has no mask", "1 image of 12")
    (root / "classes.txt").write_text("1,sky\nx,road\n")
    write_pair(root, "photo3", make_mask(3))
    refusal(options(root, classes=str(root / "classes.txt")).build, "classes.txt", "line 2")
    refusal(options(root / "nowhere").check_files, "there is no such folder")


def test_a_binary_mask_of_0_and_255_is_explained(tmp_path: Path) -> None:
    for number in range(3):
        write_pair(tmp_path, str(number), (make_mask(number) > 0) * 255)
    error = refusal(options(tmp_path).build, "1 different values besides data.ignore_value=255")
    assert "data.ignore_value=null" in error.hint
    assert len(options(tmp_path, ignore_value=None).build().targets.names) == 2


def test_the_digest_sees_a_change_that_keeps_the_size(tmp_path: Path) -> None:
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for file in files:
        file.write_bytes(b"12")
    before = describe_files(files, tmp_path)
    files[1].write_bytes(b"13")
    after = describe_files(files, tmp_path)
    assert before[:2] == after[:2] == ["a.png:2", "b.png:2"]
    assert before != after


def test_kept_masks_are_those_of_the_files(root: Path) -> None:
    source = get_source(options(root, pipeline="cached"))
    numbers = np.arange(len(source))
    expected = [(source.read(index), source.read_mask(index)) for index in range(len(source))]
    source.open_cache()
    for index in numbers:
        source.read(int(index))
    assert not source.has_cached(numbers)  # the masks are missing
    fill_cache(source, numbers)
    assert source.has_cached(numbers)
    shutil.rmtree(root / "images")
    shutil.rmtree(root / "masks")
    for index, (image, mask) in enumerate(expected):
        assert torch.equal(source.read(index), image)
        assert torch.equal(source.read_mask(index), mask)
    masks = source.get_resident_masks()
    assert masks is not None
    assert torch.equal(source.get_cached_inputs(), torch.stack([image for image, _ in expected]))
    assert torch.equal(masks, torch.stack([mask for _, mask in expected]))
