"""Sixty kinds of image files: what each is read as, or why it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_files import refusal
from PIL import Image

from dnntrain.input.decode import IMAGE_SUFFIXES, decode_image
from dnntrain.input.sample_check import check_value_range
from dnntrain.protocols.image_reading import ImageReading

#: Pillow's format → the suffixes that it is saved under here.
SUFFIXES = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif", "JPG", "Jpeg"),
    "PNG": ("png", "PNG"),
    "WEBP": ("webp",),
    "AVIF": ("avif",),
    "BMP": ("bmp", "dib"),
    "GIF": ("gif",),
    "TIFF": ("tif", "tiff", "TIF"),
    "PPM": ("ppm", "pnm"),
}
GRAY_ONLY = {"PPM": ("pgm",)}
#: Modes that each format can hold; the color is mid gray 128 in all of them.
MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
    "BMP": ("RGB", "L", "P", "1"),
    "GIF": ("L", "P"),
    "TIFF": ("RGB", "RGBA", "L", "P", "1", "CMYK", "I;16", "I", "F"),
    "PPM": ("RGB", "L"),
}


def _picture(mode: str) -> tuple[Image.Image, int]:
    """A picture of one color, and its gray value after reading."""
    if mode == "1":
        return Image.new("1", (12, 12), 1), 255
    if mode == "I;16":
        return Image.fromarray(np.full((12, 12), 128 * 257, dtype=np.uint16)), 128
    if mode == "I":
        return Image.fromarray(np.full((12, 12), 128 * 257, dtype=np.int32)), 128
    if mode == "F":
        return Image.fromarray(np.full((12, 12), 128 / 255, dtype=np.float32)), 128
    if mode in ("RGBA", "LA"):
        return Image.new("RGBA", (12, 12), (128, 128, 128, 255)).convert(mode), 128
    return Image.new("RGB", (12, 12), (128, 128, 128)).convert(mode), 128


_KINDS = [(kind, mode, SUFFIXES[kind][0]) for kind, modes in MODES.items() for mode in modes]
_KINDS += [(kind, "RGB", suffix) for kind, suffixes in SUFFIXES.items() for suffix in suffixes[1:]]
_KINDS += [(kind, "L", suffix) for kind, suffixes in GRAY_ONLY.items() for suffix in suffixes]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("kind", "mode", "suffix"), _KINDS, ids=[f"{k}-{m}-{s}" for k, m, s in _KINDS])
def test_a_kind_is_read_as_its_gray_value(tmp_path: Path, kind: str, mode: str, suffix: str, channels: int) -> None:
    picture, gray = _picture(mode)
    path = tmp_path / f"image.{suffix}"
    picture.save(path, kind)
    assert path.suffix.lower() in IMAGE_SUFFIXES
    image = decode_image(path, channels, (8, 8))
    assert image.shape == (channels, 8, 8)
    assert (image.int() - gray).abs().max() <= 4  # lossy formats, and dithering of palettes


@pytest.mark.parametrize(
    ("values", "expected"),
    [((0.0, 0.5, 1.0), (0, 127, 255)), ((0.0, 128.0, 255.0), (0, 128, 255)), ((0.0, 0.0, 0.25), (0, 0, 63))],
)
def test_floats_are_read_from_0_to_1_or_to_255(
    tmp_path: Path, values: tuple[float, ...], expected: tuple[int, ...]
) -> None:
    Image.fromarray(np.repeat(np.array(values, np.float32)[:, None], 3, axis=1)).save(tmp_path / "f.tiff")
    image = decode_image(tmp_path / "f.tiff", 1, (3, 3))
    assert tuple(image[0, :, 0].tolist()) == expected


@pytest.mark.parametrize("values", [(-1.0, 0.5), (0.0, 4095.0)])
def test_floats_of_an_unknown_range_are_refused(tmp_path: Path, values: tuple[float, ...]) -> None:
    Image.fromarray(np.array([values, values], np.float32)).save(tmp_path / "f.tiff")
    refusal(lambda: decode_image(tmp_path / "f.tiff", 1, (2, 2)), "f.tiff", "0..1")


def test_the_value_of_white_may_be_set(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 4095], [2048, 1024]], np.uint16)).save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png", 1, (2, 2), ImageReading(max_value=4095))[0].tolist() == [
        [0, 255],
        [127, 63],
    ]


def _write_deep(folder: Path, highest: int) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(4)]
    for path in paths:
        Image.fromarray(generator.integers(0, highest + 1, (8, 8)).astype(np.uint16)).save(path)
    return paths


@pytest.mark.parametrize(("highest", "white"), [(1023, 1023), (4095, 4095), (3000, 4095)])
def test_bits_that_are_not_used_are_noticed(tmp_path: Path, highest: int, white: int) -> None:
    paths = _write_deep(tmp_path, highest)
    error = refusal(lambda: check_value_range(paths, None), "nearly black")
    assert f"data.max_value={white}" in error.hint
    assert check_value_range(paths, white) == []


def test_a_sample_that_is_all_alike_or_flat_is_noted(tmp_path: Path) -> None:
    for number in range(4):
        Image.fromarray(np.tile(np.arange(0, 64, 8, dtype=np.uint8), (8, 1))).save(tmp_path / f"alike{number}.png")
        Image.new("L", (8, 8), 100 + number).save(tmp_path / f"flat{number}.png")
    assert check_value_range(sorted(tmp_path.glob("alike*")), None) == ["a sample of 4 images is all alike"]
    assert "from 100 to 103" in check_value_range(sorted(tmp_path.glob("flat*")), None)[0]
    assert check_value_range(_write_deep(tmp_path, 65535), None) == []


@pytest.mark.parametrize("size", [(20, 10), (10, 20), (12, 12)])
@pytest.mark.parametrize("mode", ["crop", "letterbox", "stretch"])
def test_an_image_of_another_aspect_is_cropped_fitted_or_stretched(
    tmp_path: Path, mode: str, size: tuple[int, int]
) -> None:
    # Half white, half black, twice as wide as high.
    pixels = np.zeros((20, 40), np.uint8)
    pixels[:, 20:] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    height, width = size
    image = decode_image(tmp_path / "wide.png", 1, size, ImageReading(mode))[0]
    assert image.shape == size
    assert image[height // 2, 0] == 0
    assert image[height // 2, width - 1] == 255
    borders = int((image == 114).all(dim=1).sum())
    assert borders == (height - width // 2 if mode == "letterbox" and height > width // 2 else 0)
