"""Decoding one file: which are read and how, and which are refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import refusal
from PIL import Image

from dnntrain.input.decode import decode_image
from dnntrain.input.resize import draw_crop_box
from dnntrain.utils.rng import Key


def saved(path: Path, picture: Image.Image, **options: Any) -> Path:
    picture.save(path, **options)
    return path


def gradient(mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> Image.Image:
    """Red grows to the right, green downwards."""
    width, height = size
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.arange(width) * 255 // max(width - 1, 1)
    pixels[..., 1] = (np.arange(height) * 255 // max(height - 1, 1))[:, None]
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "jpg", "gif"])
def test_each_format_is_read(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    path = saved(tmp_path / f"image.{suffix}", gradient(), **options)
    image = decode_image(path, 3, (8, 8))
    expected = torch.from_numpy(np.asarray(gradient()).copy()).permute(2, 0, 1)
    assert image.dtype == torch.uint8
    assert (image.int() - expected.int()).abs().max() <= {"jpg": 6, "gif": 40}.get(suffix, 0)


@pytest.mark.parametrize(
    ("picture", "suffix", "expected"),
    [
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "tiff", (255, 0, 0)),
        (Image.new("1", (4, 4), 1), "png", (255, 255, 255)),
        (Image.new("L", (4, 4), 77), "png", (77, 77, 77)),
        (Image.new("LA", (4, 4), (200, 255)), "png", (200, 200, 200)),
        (Image.new("RGBA", (4, 4), (9, 8, 7, 255)), "png", (9, 8, 7)),
        (Image.new("RGBA", (4, 4), (9, 8, 7, 0)), "png", (0, 0, 0)),
        (Image.new("RGB", (4, 4), (10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE), "png", (10, 20, 30)),
        (Image.fromarray(np.full((4, 4), 257 * 100, dtype=np.uint16)), "png", (100, 100, 100)),
        (Image.fromarray(np.full((4, 4), 257 * 100, dtype=np.uint16)), "tiff", (100, 100, 100)),
        (Image.fromarray(np.full((4, 4), 42.4, dtype=np.float32)), "tiff", (42, 42, 42)),
    ],
    ids=["CMYK", "1-bit", "gray", "gray+alpha", "opaque", "clear", "palette", "16-bit PNG", "16-bit TIFF", "float"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_pixel_is_converted(
    tmp_path: Path, picture: Image.Image, suffix: str, expected: tuple[int, int, int], channels: int
) -> None:
    image = decode_image(saved(tmp_path / f"image.{suffix}", picture), channels, (4, 4))
    gray = round(0.299 * expected[0] + 0.587 * expected[1] + 0.114 * expected[2])
    wanted = expected if channels == 3 else (gray,)
    assert image.shape == (channels, 4, 4)
    assert (image[:, 2, 2].int() - torch.tensor(wanted)).abs().max() <= 1


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the stored top is the right side
    path = saved(tmp_path / "turned.png", gradient(), exif=exif)
    expected = torch.from_numpy(np.asarray(gradient().transpose(Image.Transpose.ROTATE_270)).copy()).permute(2, 0, 1)
    assert torch.equal(decode_image(path, 3, (8, 8)), expected)


def test_only_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = saved(tmp_path / "moving.gif", frames[0], save_all=True, append_images=frames[1:])
    assert decode_image(path, 3, (4, 4))[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (7, 300)])
def test_any_shape_becomes_the_shape_asked_for(tmp_path: Path, size: tuple[int, int]) -> None:
    path = saved(tmp_path / "image.png", Image.new("RGB", size, (50, 60, 70)))
    image = decode_image(path, 3, (6, 9))
    assert image.shape == (3, 6, 9)
    assert image.flatten(1).unique(dim=1).flatten().tolist() == [50, 60, 70]


def test_the_middle_is_cropped_out(tmp_path: Path) -> None:
    wide = Image.new("RGB", (30, 10), "blue")
    wide.paste("red", (10, 0, 20, 10))
    image = decode_image(saved(tmp_path / "wide.png", wide), 3, (10, 10))
    assert image.flatten(1).unique(dim=1).flatten().tolist() == [255, 0, 0]


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header says this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def fits() -> bytes:
    cards = ["SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    2"]
    cards += ["NAXIS1  =                    4", "NAXIS2  =                    4", "END"]
    return "".join(card.ljust(80) for card in cards).encode().ljust(2880) + bytes(2880)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("empty.jpg", b"", "0 bytes"),
        ("text.jpg", b"this is no picture", "text"),
        ("page.png", b"<!DOCTYPE html>", "text"),
        ("bomb.png", png_claiming(50_000, 50_000), "pixels"),
        ("large.png", png_claiming(11_000, 10_000), "110"),
        ("flat.png", png_claiming(0, 10), ""),
        ("stars.png", fits(), ""),
        ("print.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", "text"),
        ("texture.png", b"DDS " + struct.pack("<I", 124) + bytes(200), "its format is not one of JPEG"),
        ("noise.jpg", bytes(range(128, 256)) * 4, "its format is not one of JPEG"),
        ("short.png", png_claiming(100, 100), ""),
    ],
)
def test_what_is_no_readable_image_is_named(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    refusal(lambda: decode_image(path, 3, (8, 8)), path, problem)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tiff", "bmp"])
def test_a_file_cut_anywhere_is_read_or_named(tmp_path: Path, suffix: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8))
    whole = saved(tmp_path / f"whole.{suffix}", noise).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    for length in range(1, len(whole) * 3 // 4, max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        refusal(lambda: decode_image(path, 3, (8, 8)), path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    refusal(lambda: decode_image(tmp_path / "gone.png", 3, (8, 8)), tmp_path / "gone.png")
    refusal(lambda: decode_image(tmp_path, 3, (8, 8)), tmp_path)


def test_a_random_part_lies_within_the_picture_and_has_the_area_asked_for() -> None:
    shares = []
    for index in range(300):
        left, top, right, bottom = draw_crop_box(40, 30, index, Key(0, "resized_crop"))
        assert 0 <= left < right <= 40
        assert 0 <= top < bottom <= 30
        shares.append((right - left) * (bottom - top) / 1200)
    assert min(shares) < 0.15
    assert max(shares) > 0.9
