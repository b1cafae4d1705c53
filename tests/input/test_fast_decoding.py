"""`data.decode=fast`: the pixels of Pillow within a level, from a box of whole pixels, by torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import refusal
from PIL import Image, ImageOps
from torch import Tensor

from dnntrain.errors import DataError
from dnntrain.input import decode
from dnntrain.input.decode import decode_image, decode_picture
from dnntrain.input.file_source import RandomCropSource
from dnntrain.input.resize import place_picture, resize_mask
from dnntrain.protocols.image_reading import ImageReading, ResizeMode
from dnntrain.utils.rng import Key

FAST = ImageReading(decode="fast")
WIDTH, HEIGHT = 301, 226


def make_photo(mode: str = "RGB", size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """A picture with structure at several scales."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC).convert(mode)


def save(path: Path, picture: Image.Image, orientation: int = 1, **options: Any) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif, **options)
    return path


def to_pixels(picture: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(picture))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def compute_largest_difference(first: Tensor, second: Tensor) -> int:
    assert first.shape == second.shape
    assert first.dtype == second.dtype == torch.uint8
    return int((first.int() - second.int()).abs().max())


@pytest.fixture(autouse=True, params=["torchcodec", "Pillow"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode JPEG files with and without torchcodec."""
    if request.param == "Pillow":
        monkeypatch.setattr(decode, "find_jpeg_decoder", lambda: None)
    else:
        assert decode.find_jpeg_decoder() is not None


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1), ("RGB", 1), ("L", 3)])
def test_pixels_are_those_of_pillow_within_a_level(
    suffix: str, orientation: int, mode: str, channels: int, tmp_path: Path
) -> None:
    path = save(tmp_path / f"a.{suffix}", make_photo(mode), orientation, **({"quality": 90} if suffix == "jpg" else {}))
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file).convert("RGB" if channels == 3 else "L")
    width, height = picture.size
    side = min(picture.size)
    left, top = (width - side + 1) // 2, (height - side + 1) // 2
    expected = picture.crop((left, top, left + side, top + side)).resize((48, 48), Image.Resampling.BILINEAR)
    assert compute_largest_difference(decode_image(path, channels, (48, 48), FAST), to_pixels(expected)) <= 1


@pytest.mark.parametrize("whole", [(301, 226), (300, 225), (64, 301), (31, 30)])
def test_the_formula_of_the_manifest_is_what_is_done(whole: tuple[int, int], tmp_path: Path) -> None:
    picture = make_photo(size=whole)
    steps = FAST.resize_formula.split("; ")
    names = {"W": whole[0], "H": whole[1], "w": 40, "h": 24, "floor": math.floor, "picture": picture}
    for step in steps[:-1]:
        exec(step, names)
    expected = eval(steps[-1], {**names, "BILINEAR": Image.Resampling.BILINEAR})
    image = decode_image(save(tmp_path / "a.png", picture), 3, (24, 40), FAST)
    assert compute_largest_difference(image, to_pixels(expected)) <= 1


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("size", [(48, 48), (30, 90), (400, 500)])
def test_other_ways_to_fit_have_the_same_places(resize: ResizeMode, size: tuple[int, int], tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", make_photo())
    full, fast = (decode_image(path, 3, size, ImageReading(resize, decode=mode)) for mode in ("full", "fast"))
    assert compute_largest_difference(full, fast) <= 1
    assert torch.equal(full == 114, fast == 114) or resize == "stretch"


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (7, 300), (64, 64)])
@pytest.mark.parametrize("mode", ["fast", "scaled"])
def test_any_shape_becomes_the_shape_asked_for(size: tuple[int, int], mode: Any, tmp_path: Path) -> None:
    for suffix in ("png", "jpg"):
        path = save(tmp_path / f"a.{suffix}", Image.new("RGB", size, (50, 60, 70)))
        image = decode_image(path, 3, (6, 9), ImageReading(decode=mode))
        assert image.shape == (3, 6, 9)
        assert (image.flatten(1).float().mean(1) - torch.tensor([50.0, 60, 70])).abs().max() <= 3


def test_a_random_crop_is_the_one_of_pillow(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", make_photo())
    full, fast = (
        RandomCropSource([path], np.zeros(1, dtype=np.int64), (24, 24), 3, False, False, reading=reading)
        for reading in (ImageReading(), FAST)
    )
    for index in range(8):
        key = Key(index, "crops")
        images = [source.read_for_training(0, key, index).float() for source in (full, fast)]
        # Pillow's filter reads pixels beyond the box too.
        assert (images[0] - images[1])[:, 2:-2, 2:-2].abs().max() <= 1


def test_a_picture_in_memory_is_read_as_its_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", make_photo(), 6)
    with Image.open(path) as picture:
        assert torch.equal(decode_picture(picture, 3, (32, 40), FAST), decode_image(path, 3, (32, 40), FAST))


def test_a_mask_has_the_box_of_its_image() -> None:
    mask = np.zeros((7, 12), np.uint8)
    mask[:, 3:] = 1
    # The box begins at 2.5 pixels, and at 3 for torch.
    boxes = [place_picture((12, 7), (7, 7), reading).box for reading in (ImageReading(), FAST)]
    assert boxes == [(2.5, 0.0, 9.5, 7.0), (3.0, 0.0, 10.0, 7.0)]
    assert resize_mask(mask, place_picture((12, 7), (7, 7), FAST), (7, 7)).tolist() == [[1] * 7] * 7


def test_damaged_files_have_the_errors_of_pillow(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.jpg", make_photo(), quality=90).read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    refusal(lambda: decode_image(tmp_path / "half.jpg", 3, (8, 8), FAST), "half.jpg", "cannot be decoded")
    (tmp_path / "text.jpg").write_text("no picture")
    refusal(lambda: decode_image(tmp_path / "text.jpg", 3, (8, 8), FAST), "text.jpg", "is text")
    random = np.random.default_rng(0)
    for number in range(30):
        data = bytearray(whole)
        for place in random.integers(len(data) // 4, len(data), 3):
            data[place] ^= int(random.integers(1, 256))
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(data)
        outcomes = []
        for reading in (ImageReading("stretch"), ImageReading("stretch", decode="fast")):
            try:
                outcomes.append(decode_image(path, 3, (32, 32), reading))
            except DataError:
                outcomes.append(torch.zeros(0, dtype=torch.uint8))
        assert len(outcomes[0]) == len(outcomes[1])
        assert not len(outcomes[0]) or compute_largest_difference(*outcomes) <= 1
