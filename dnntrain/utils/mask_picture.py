"""Show masks as small pictures with a color for each class. Imports no torch."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Longest side of a picture in a report, pixels.
_MAX_SIDE = 96

#: The text of a PNG that `encode_mask` writes, by which a predicted mask is known.
_MARK = ("Software", "dnntrain predict")


def make_palette() -> list[int]:
    """Return the 256 colors of PASCAL VOC: red, green and blue of class 0, of class 1 …

    Bits 0, 3, 6 of the class are the highest bits of red, and so on; 0 is black, 255 nearly white.
    """
    colors = []
    for label in range(256):
        for channel in range(3):
            colors.append(sum(((label >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3)))
    return colors


def make_mask_picture(mask: NDArray[Any]) -> Any:
    """Return a mask [height, width] as a palette image of Pillow; the value of a pixel is its class."""
    from PIL import Image

    picture = Image.fromarray(mask.astype(np.uint8), "P")
    picture.putpalette(make_palette())
    return picture


def encode_mask(mask: NDArray[Any]) -> bytes:
    """Return a predicted mask as the bytes of a PNG with a palette, and with a mark of its origin."""
    from PIL.PngImagePlugin import PngInfo

    file, info = BytesIO(), PngInfo()
    info.add_text(*_MARK)
    make_mask_picture(mask).save(file, "PNG", optimize=True, pnginfo=info)
    return file.getvalue()


def is_predicted_mask(path: Path) -> bool:
    """Return whether `path` is a PNG that has the mark of `encode_mask`."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return bool(picture.info.get(_MARK[0]) == _MARK[1])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def encode_mask_base64(mask: NDArray[Any]) -> str:
    """Return a mask as a PNG in base64, at most 96 pixels a side."""
    from PIL.Image import Resampling

    picture = make_mask_picture(mask)
    scale = min(1.0, _MAX_SIDE / max(picture.size))
    width, height = (max(1, round(side * scale)) for side in picture.size)
    file = BytesIO()
    picture.resize((width, height), Resampling.NEAREST).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")
