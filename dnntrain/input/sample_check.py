"""Look at a few images before training: their depth, and whether they differ at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnntrain.errors import DataError
from dnntrain.input.decode import FORMATS, check_regular_file, decode_image, is_deep
from dnntrain.protocols.image_reading import ImageReading

_NUM_SAMPLES = 16
#: Deep images that use less than this share of their range are rejected: 12 bits in 16 are a sixteenth.
_MIN_RANGE_SHARE = 1 / 8
#: Images of 8 bits that span fewer values than this deserve a note.
_MIN_SPAN = 24
_SIDE = 32


def check_value_range(paths: Sequence[Path], max_value: float | None) -> list[str]:
    """Return notes about images that use a sliver of their range, or are all alike.

    Raises DataError if 16-bit images use a small part of their range, which would make them nearly
    black, and `max_value` does not name the value of white. Unreadable images are skipped.
    """
    positions = sorted({round(index) for index in np.linspace(0, len(paths) - 1, min(_NUM_SAMPLES, len(paths)))})
    samples = [paths[position] for position in positions]
    if max_value is None:
        _check_depth([highest for highest in map(_read_highest_deep_value, samples) if highest is not None], samples[0])
    images: list[NDArray[np.uint8]] = []
    for path in samples:
        try:
            images.append(decode_image(path, 1, (_SIDE, _SIDE), ImageReading(max_value=max_value)).numpy())
        except DataError:
            continue
    if len(images) < 2:
        return []
    lowest, highest = min(int(image.min()) for image in images), max(int(image.max()) for image in images)
    if highest - lowest < _MIN_SPAN:
        return [f"a sample of {len(images)} images uses gray values from {lowest} to {highest} of 255 only"]
    if all(np.array_equal(image, images[0]) for image in images):
        return [f"a sample of {len(images)} images is all alike"]
    return []


def _read_highest_deep_value(path: Path) -> float | None:
    """Return the highest value of a 16-bit image; None for any other, and for an unreadable one."""
    from PIL import Image

    try:
        check_regular_file(path)
        with Image.open(path, formats=FORMATS) as file:
            if not is_deep(file.mode) or file.mode == "F":
                return None
            return float(np.asarray(file).max(initial=0))
    except Exception:  # decoders raise arbitrary errors on damaged bytes; training names the file
        return None


def _check_depth(highest_values: Sequence[float], example: Path) -> None:
    if not highest_values:
        return
    highest = max(highest_values)
    if 255 < highest < _MIN_RANGE_SHARE * 65535:
        white = next(2**bits - 1 for bits in range(9, 17) if 2**bits - 1 >= highest)
        raise DataError(
            f"{example.parent}: 16-bit images use values up to {highest:.0f} of 65535 only, and would be nearly black",
            f"set data.max_value to the value of white, such as data.max_value={white}",
        )
