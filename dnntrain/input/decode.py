"""Decode one image file safely into bytes of one size."""

from __future__ import annotations

import os
import stat
import warnings
from codecs import getincrementaldecoder
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dnntrain.errors import DataError
from dnntrain.input.resize import Placement, Size, place_picture, resize_picture, resize_pixels
from dnntrain.protocols.image_reading import ImageReading

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_PLAIN = ImageReading()

#: The tag of EXIF for the orientation of a picture, and its values that swap width and height.
_EXIF_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)

#: The formats that are read, first frame only, whatever the file's name. Pillow reads many more,
#: with their security holes.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM")

#: Suffixes of image files, in lower case.
IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".avif",
        ".bmp",
        ".dib",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
    ]
)

#: Maximum pixels of an image; a file can claim billions in a few bytes.
MAX_PIXELS = 100_000_000


def decode_image(path: Path, channels: int, size: tuple[int, int], reading: ImageReading = _PLAIN) -> Tensor:
    """Return the file's picture at the size of the input, as evaluation sees it.

    The result is uint8 [channels, height, width]; `size` is (height, width).
    """
    return read_image(path, channels, size, lambda whole: place_picture(whole, size, reading), reading)


def decode_picture(picture: Image, channels: int, size: tuple[int, int], reading: ImageReading = _PLAIN) -> Tensor:
    """Return an open picture at the size of the input; a JPEG that is open is not decoded at a fraction.

    Raises DataError as `convert_mode` does.
    """
    from PIL import ImageOps

    upright = convert_mode(ImageOps.exif_transpose(picture), channels, reading.max_value)
    placement = place_picture(upright.size, size, reading)
    if reading.decode == "full":
        return _convert_to_tensor(resize_picture(upright, upright.size, placement, size), channels)
    return resize_pixels(_convert_to_tensor(upright, channels), placement, size)


def read_image(
    path: Path,
    channels: int,
    size: tuple[int, int],
    place: Callable[[Size], Placement],
    reading: ImageReading = _PLAIN,
) -> Tensor:
    """Return the part of the file's picture that `place` chooses, upright, in RGB or gray.

    `place` gets the (width, height) of the whole picture. With `reading.decode` "scaled" a JPEG is decoded at
    1/2, 1/4 or 1/8 of its sides if the part does not become smaller than its place in the input. With "fast",
    and otherwise with "scaled", torch resizes. The result is uint8 [channels, height, width]; `size` is (height,
    width). EXIF rotation is applied. CMYK, palettes and 1-bit pixels are converted; transparent pixels
    are black. Grays of 16 bits and floats are scaled to 8 bits: `reading.max_value` is white, by
    default 65535, and 1 for floats. Raises DataError, naming the file, for anything that is not a
    readable picture of the known formats.
    """
    decoded, placement = _decode_file(path, channels, place, reading)
    if isinstance(decoded, _Picture):
        picture = resize_picture(decoded.picture, decoded.whole, placement, size)
        return _convert_to_tensor(picture, channels)
    return resize_pixels(decoded, placement, size)


class _Picture(NamedTuple):
    """A picture for Pillow's filter, and the size of the whole one, of which it may be a smaller copy."""

    picture: Image
    whole: Size


def _decode_file(
    path: Path, channels: int, place: Callable[[Size], Placement], reading: ImageReading
) -> tuple[_Picture | Tensor, Placement]:
    """Return the picture for Pillow's filter, or its pixels for torch's: uint8 [channels, height, width]."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    check_regular_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as file:
                width, height = file.size
                if width * height > MAX_PIXELS:
                    raise DataError(f"{path}: {width}x{height} pixels; the limit is {MAX_PIXELS:,}", _REMOVE_HINT)
                orientation = file.getexif().get(_EXIF_ORIENTATION, 1)
                whole = (height, width) if orientation in _SIDEWAYS else (width, height)
                placement = place(whole)
                if reading.decode == "scaled" and file.format == "JPEG":
                    _shrink_jpeg(file, placement.shrinkage)
                uses_torch = reading.decode != "full" and file.size == (width, height)
                if uses_torch and orientation == 1 and (pixels := _decode_jpeg(path, file, channels)) is not None:
                    return pixels, placement
                file.load()
                # In place: a copy of the whole picture takes a tenth of the time that decoding does.
                ImageOps.exif_transpose(file, in_place=True)
                picture = convert_mode(file, channels, reading.max_value, str(path))
                return _convert_to_tensor(picture, channels) if uses_torch else _Picture(picture, whole), placement
    except UnidentifiedImageError:
        raise DataError(f"{path}: {_describe_unknown_format(path)}", _REMOVE_HINT) from None
    except DataError:
        raise
    except Exception as error:  # decoders raise arbitrary errors on damaged bytes
        raise DataError(f"{path}: cannot be decoded ({_format_error(error)})", _REMOVE_HINT) from None


@cache
def find_jpeg_decoder() -> Callable[..., Tensor] | None:
    """Return torchcodec's decoder, whose pixels are Pillow's.

    None if it is not installed, or if this torch cannot load it.
    """
    try:
        decoders: Any = import_module("torchcodec.decoders")
        decode: Callable[..., Tensor] = decoders.decode_jpeg
    except (ImportError, AttributeError, OSError, RuntimeError):
        return None
    return decode


def _decode_jpeg(path: Path, file: Image, channels: int) -> Tensor | None:
    """Return the pixels of a JPEG, [channels, height, width], by torchcodec.

    None leaves the file to Pillow and to its errors: files with other colors, and those that torchcodec
    cannot decode.
    """
    mode = "RGB" if channels == 3 else "L"
    decode = find_jpeg_decoder() if file.format == "JPEG" and file.mode == mode else None
    if decode is None:
        return None
    import torch

    data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    try:
        pixels = decode(data, mode="RGB" if channels == 3 else "GRAY")
    except RuntimeError:
        return None
    return pixels if pixels.shape == (channels, file.height, file.width) else None


def _shrink_jpeg(file: Image, shrinkage: float) -> None:
    """Decode a JPEG at a fraction of its sides, from fewer coefficients of each block of 8 x 8 pixels."""
    factor = next((factor for factor in (8, 4, 2) if factor <= shrinkage), 1)
    if factor > 1:
        file.draft(None, (file.width // factor, file.height // factor))


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


def convert_mode(picture: Image, channels: int, max_value: float | None = None, name: str = "image") -> Image:
    """Return `picture` as RGB (`channels` 3) or 8-bit gray (1); `picture` itself if it is that.

    Raises DataError, naming `name`, if the range of a deep image is unknown.
    """
    from PIL import Image as PillowImage

    if is_deep(picture.mode):
        picture = _convert_to_8_bit(picture, max_value, name)
    if "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = PillowImage.alpha_composite(PillowImage.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    mode = "RGB" if channels == 3 else "L"
    return picture if picture.mode == mode else picture.convert(mode)


def is_deep(mode: str) -> bool:
    """Return whether pixels of a Pillow mode have more than 8 bits: 16-bit and 32-bit integers, floats."""
    return mode.startswith("I") or mode == "F"


def _convert_to_8_bit(picture: Image, max_value: float | None, name: str) -> Image:
    """Scale 0..white to 0..255.

    White is `max_value`; by default 65535 for integers above 255, and 1 for floats.
    """
    import numpy as np
    from PIL import Image as PillowImage

    values = np.nan_to_num(np.asarray(picture).astype(np.float64))
    lowest, highest = float(values.min(initial=0)), float(values.max(initial=0))
    white = max_value
    if white is None and picture.mode == "F":
        white = 1.0 if highest <= 1 else 255.0
        if lowest < 0 or highest > 255:
            raise DataError(
                f"{name}: its values from {lowest:g} to {highest:g} must be in 0..1 or 0..255",
                "set data.max_value to the value of white, or convert the image to 8 bits",
            )
    elif white is None:
        white = 65535.0 if picture.mode.startswith("I;16") or highest > 255 else 255.0
    scaled = np.floor(values * (255.0 / white) + 1e-9) if white != 255.0 else values
    return PillowImage.fromarray(scaled.clip(0, 255).astype(np.uint8))


def _convert_to_tensor(picture: Image, channels: int) -> Tensor:
    import torch

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
