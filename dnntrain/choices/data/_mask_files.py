"""Read masks from image files: values or colors of pixels, each of which is a class."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dnntrain.errors import DataError
from dnntrain.input.decode import FORMATS, check_regular_file
from dnntrain.input.read_threads import map_in_threads
from dnntrain.input.resize import place_picture, resize_mask
from dnntrain.protocols import IGNORED
from dnntrain.protocols.image_reading import ImageReading

if TYPE_CHECKING:
    from PIL.Image import Image

#: Classes of masks; 255 is left for pixels that do not count.
MAX_CLASSES = 255

#: A color is the value 2^24 + red · 2^16 + green · 2^8 + blue, so that it differs from the values of gray masks.
_COLOR = 2**24


@dataclass(frozen=True)
class MaskClasses:
    """The names of the classes, and the value of a pixel of each; pixels with the value `ignored` do not count."""

    names: tuple[str, ...]
    values: tuple[int, ...]
    ignored: int | None

    def to_classes(self, values: NDArray[np.int64], path: Path) -> NDArray[np.uint8]:
        """Return the class of each pixel, 255 for those that do not count.

        Raises DataError, which names the file, if a value is not a class.
        """
        distinct, inverse = np.unique(values, return_inverse=True)
        numbers = {value: number for number, value in enumerate(self.values)}
        if self.ignored is not None:
            numbers[self.ignored] = IGNORED
        if wrong := [value for value in distinct.tolist() if value not in numbers]:
            raise DataError(
                f"{path}: the value {format_value(wrong[0])} of a pixel is not a class",
                f"the classes have the values {', '.join(map(format_value, self.values[:12]))}; set data.classes=FILE, "
                "or data.ignore_value to the value of pixels that do not count",
            )
        table = np.array([numbers[value] for value in distinct.tolist()], dtype=np.uint8)
        return table[inverse.reshape(values.shape)]


def read_mask_values(path: Path) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Return the value of each pixel [height, width] of a mask, and the size (width, height).

    Palettes give their indices, grays their values, colors numbers from 2^24 on.
    """
    picture = open_mask(path)
    return _list_values(picture), picture.size


def open_mask(path: Path) -> Image:
    """Return the picture of a mask. Raises DataError, which names the file, if it cannot be read."""
    from PIL import Image

    check_regular_file(path)
    try:
        with Image.open(path, formats=FORMATS) as file:
            file.load()
            return file.copy()
    except Exception as error:  # decoders raise arbitrary errors on damaged bytes
        raise DataError(
            f"{path}: cannot be decoded as a mask ({type(error).__name__})", "remove or replace the file"
        ) from None


def read_fitted_mask(
    path: Path, classes: MaskClasses, size: tuple[int, int], reading: ImageReading
) -> NDArray[np.uint8]:
    """Return the mask at the size of the input [height, width], cropped and resized as its image is."""
    mask = classes.to_classes(_list_values(open_mask(path)), path)
    height, width = mask.shape
    return resize_mask(mask, place_picture((width, height), size, reading), size)


def _list_values(picture: Image) -> NDArray[np.int64]:
    if picture.mode in ("RGB", "RGBA"):
        red, green, blue = np.asarray(picture.convert("RGB")).astype(np.int64).transpose(2, 0, 1)
        colors: NDArray[np.int64] = _COLOR + red * 65536 + green * 256 + blue
        return colors
    values: NDArray[Any] = np.asarray(picture)
    numbers: NDArray[np.int64] = (values[..., 0] if values.ndim == 3 else values).astype(np.int64)
    return numbers


def format_value(value: int) -> str:
    return f"#{value - _COLOR:06x}" if value >= _COLOR else str(value)


def find_values(
    paths: Sequence[Path], sizes: Sequence[tuple[int, int] | None], images: Sequence[Path]
) -> list[set[int]]:
    """Return the values of each mask. Raises DataError if its size is not that of its image."""

    def scan(number: int) -> set[int]:
        values, size = read_mask_values(paths[number])
        image_size = sizes[number]
        if image_size is not None and size != image_size:
            raise DataError(
                f"{paths[number]}: the mask has {size[0]}x{size[1]} pixels, its image {images[number].name} "
                f"{image_size[0]}x{image_size[1]}",
                "a mask must have the size of its image",
            )
        return set(np.unique(values).tolist())

    return list(map_in_threads(scan, range(len(paths))))


def choose_classes(values: Sequence[set[int]], file: Path | None, ignored: int | None) -> MaskClasses:
    """Return the classes of the file, or those whose values the training masks have."""
    if file is not None:
        return read_classes(file, ignored)
    distinct = sorted(set().union(*values) - {ignored})
    if not 2 <= len(distinct) <= MAX_CLASSES:
        hint = "a binary mask of 0 and 255 needs data.ignore_value=null" if ignored == IGNORED else "use other masks"
        raise DataError(
            f"the masks have {len(distinct)} different values besides data.ignore_value={ignored}; "
            f"there must be 2 to {MAX_CLASSES} classes",
            f"{hint}; data.classes=FILE names the classes",
        )
    return MaskClasses(tuple(f"class {format_value(value)}" for value in distinct), tuple(distinct), ignored)


def read_classes(file: Path, ignored: int | None) -> MaskClasses:
    """Read the classes of masks from a text file: a line is NAME, VALUE,NAME or #RRGGBB,NAME.

    A NAME alone has the number of its line, from 0 on, as value. Raises DataError, which names the
    line.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = [[cell.strip() for cell in row] for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read ({error})", "write one class in each line, as in 1,road") from None
    names, values = [], []
    for number, row in enumerate(rows):
        value = number if len(row) == 1 else _parse_value(row[0])
        if len(row) > 2 or value is None or not row[-1]:
            raise DataError(
                f"{file}: line {number + 1} must be NAME, VALUE,NAME or #RRGGBB,NAME", "for example: 1,road"
            )
        names.append(row[-1])
        values.append(value)
    if not 2 <= len(names) <= MAX_CLASSES or len(set(names)) < len(names) or len(set(values)) < len(values):
        raise DataError(
            f"{file}: must name 2 to {MAX_CLASSES} classes, each with a name and a value of its own",
            "write one class in each line, as in 1,road",
        )
    if ignored in values:
        raise DataError(
            f"{file}: the value {ignored} of {names[values.index(ignored)]} is data.ignore_value",
            "set data.ignore_value=null, if all pixels count",
        )
    return MaskClasses(tuple(names), tuple(values), ignored)


def _parse_value(text: str) -> int | None:
    try:
        return _COLOR + int(text[1:], 16) if text.startswith("#") and len(text) == 7 else int(text)
    except ValueError:
        return None
