"""`data.decode=scaled`: JPEG files decoded at a fraction of their sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, JpegImagePlugin
from torch import Tensor

from dnntrain.input import decode
from dnntrain.input.decode import decode_image
from dnntrain.input.file_source import RandomCropSource
from dnntrain.protocols.image_reading import ImageReading, ResizeMode
from dnntrain.utils.rng import Key

WIDTH, HEIGHT = 500, 375
SCALED = ImageReading(decode="scaled")


def save_photo(path: Path, orientation: int = 1) -> Path:
    """A picture with structure at several scales."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.sin(x / 40) * np.cos(y / 25), np.sin((x + y) / 60), np.cos(x / 90) * np.sin(y / 15)]
    pixels = np.stack([(127.5 + 100 * wave).astype(np.uint8) for wave in waves], axis=-1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, quality=90, exif=exif)
    return path


def compute_difference(first: Tensor, second: Tensor) -> float:
    return float((first.int() - second.int()).abs().float().mean())


@pytest.fixture
def decoded_sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes at which JPEG files are decoded."""
    sizes: list[tuple[int, int]] = []
    load = JpegImagePlugin.JpegImageFile.load

    def record(file: JpegImagePlugin.JpegImageFile) -> object:
        if file.tile:  # not decoded yet
            sizes.append(file.size)
        return load(file)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", record)
    monkeypatch.setattr(decode, "find_jpeg_decoder", lambda: None)
    return sizes


@pytest.mark.parametrize("resize", ["crop", "letterbox", "stretch"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_photo_is_nearly_the_same_from_fewer_coefficients(
    tmp_path: Path, decoded_sizes: list[tuple[int, int]], resize: ResizeMode, orientation: int
) -> None:
    path = save_photo(tmp_path / "a.jpg", orientation)
    full = decode_image(path, 3, (64, 64), ImageReading(resize))
    scaled = decode_image(path, 3, (64, 64), ImageReading(resize, decode="scaled"))
    assert decoded_sizes[0] == (WIDTH, HEIGHT)
    assert decoded_sizes[-1] == (125, 94)
    assert 0 < compute_difference(full, scaled) < 3


@pytest.mark.parametrize(("side", "size"), [(375, (500, 375)), (188, (500, 375)), (187, (250, 188)), (40, (63, 47))])
def test_the_decoded_picture_is_never_smaller_than_the_input(
    tmp_path: Path, decoded_sizes: list[tuple[int, int]], side: int, size: tuple[int, int]
) -> None:
    decode_image(save_photo(tmp_path / "a.jpg"), 3, (side, side), SCALED)
    assert decoded_sizes[-1] == size


def test_other_formats_are_read_as_by_fast(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.open(save_photo(tmp_path / "a.jpg")).save(path)
    fast = decode_image(path, 3, (64, 64), ImageReading(decode="fast"))
    assert torch.equal(decode_image(path, 3, (64, 64), SCALED), fast)


def test_a_random_crop_has_the_same_box(tmp_path: Path, decoded_sizes: list[tuple[int, int]]) -> None:
    path = save_photo(tmp_path / "a.jpg")
    full, scaled = (
        RandomCropSource([path], np.zeros(1, dtype=np.int64), (24, 24), 3, False, False, reading=reading)
        for reading in (ImageReading(), SCALED)
    )
    for index in range(8):
        key = Key(index, "crops")
        difference = compute_difference(full.read_for_training(0, key, index), scaled.read_for_training(0, key, index))
        assert difference < 6
    assert min(width for width, _ in decoded_sizes) < WIDTH
