"""Decode one image file safely into bytes of one size."""

from __future__ import annotations

import os
import stat
import warnings
from codecs import getincrementaldecoder
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dnntrain.errors import DataError
from dnntrain.input.resize import crop_center

if TYPE_CHECKING:
    from PIL.Image import Image

#: The formats that are read, first frame only, whatever the file's name. Pillow reads many more,
#: with their security holes.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

#: Suffixes of image files, in lower case.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

#: Maximum pixels of an image; a file can claim billions in a few bytes.
MAX_PIXELS = 100_000_000


def decode_image(path: Path, channels: int, size: tuple[int, int]) -> Tensor:
    """Return the center of the file's picture, as evaluation sees it.

    The result is uint8 [channels, height, width]; `size` is (height, width).
    """
    return read_image(path, channels, lambda picture: crop_center(picture, *size))


def read_image(path: Path, channels: int, crop: Callable[[Image], Image]) -> Tensor:
    """Return the file's picture, upright, in RGB or gray, after `crop`.

    The result is uint8 [channels, height, width]. EXIF rotation is applied. CMYK, palettes and
    1-bit pixels are converted; 16-bit grays are scaled to 8; transparent pixels are black. Raises
    DataError, naming the file, for anything that is not a readable picture of the known formats.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    check_regular_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as file:
                width, height = file.size
                if width * height > MAX_PIXELS:
                    raise DataError(f"{path}: {width}x{height} pixels; the limit is {MAX_PIXELS:,}", _REMOVE_HINT)
                file.load()
                picture = convert_mode(ImageOps.exif_transpose(file), channels)
    except UnidentifiedImageError:
        raise DataError(f"{path}: {_describe_unknown_format(path)}", _REMOVE_HINT) from None
    except DataError:
        raise
    except Exception as error:  # decoders raise arbitrary errors on damaged bytes
        raise DataError(f"{path}: cannot be decoded ({_format_error(error)})", _REMOVE_HINT) from None
    return _convert_to_tensor(crop(picture), channels)


def check_regular_file(path: Path) -> os.stat_result:
    """Return the file's status.

    Raises DataError if it is missing, empty, unreadable, a pipe or a device.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})", _REMOVE_HINT) from None
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: is not a regular file", _REMOVE_HINT)
    if status.st_size == 0:
        raise DataError(f"{path}: is empty (0 bytes)", _REMOVE_HINT)
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: cannot be read (no permission)", f"run: chmod u+r '{path}', or remove the file")
    return status


def convert_mode(picture: Image, channels: int) -> Image:
    """Return `picture` as RGB (`channels` 3) or 8-bit gray (1)."""
    from PIL import Image as PillowImage

    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _convert_to_8_bit(picture)
    if "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = PillowImage.alpha_composite(PillowImage.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return picture.convert("RGB" if channels == 3 else "L")


def _convert_to_8_bit(picture: Image) -> Image:
    """Keep the upper half of 16-bit integers; clip other wide numbers to 0..255."""
    import numpy as np
    from PIL import Image as PillowImage

    values = np.asarray(picture)
    if picture.mode.startswith("I;16") or (picture.mode == "I" and values.max(initial=0) > 255):
        values = values.astype(np.int64) // 257
    return PillowImage.fromarray(np.nan_to_num(values).clip(0, 255).astype(np.uint8))


def _convert_to_tensor(picture: Image, channels: int) -> Tensor:
    width, height = picture.size
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.view(height, width, channels).permute(2, 0, 1)


def _describe_unknown_format(path: Path) -> str:
    """Describe a file of an unknown format by its first bytes."""
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        return "is a Git-LFS pointer, not the image itself; run: git lfs pull"
    text = getincrementaldecoder("utf-8")("replace").decode(head)
    if not any(letter == "\ufffd" or (letter < " " and letter not in "\t\r\n") for letter in text):
        return f"is text, not an image (begins with {text[:24]!r})"
    return f"is damaged, or its format is not one of {', '.join(FORMATS)}"


def _format_error(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


_REMOVE_HINT = "remove or replace the file, or set data.on_error=skip"
