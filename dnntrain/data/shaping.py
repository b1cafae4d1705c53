"""From a picture of any size to the square that the network sees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from dnntrain.keys import Key

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[float, float, float, float]

#: Least share of the area, and most extreme aspects, of a random part (Szegedy et al., "Going deeper with convolutions", 2015).
_LEAST_AREA = 0.08
_ASPECTS = (3 / 4, 4 / 3)
_TRIES = 10


def centre_square(picture: Image, size: int) -> Image:
    """The largest middle square, resized to `size` pixels a side: the shorter side is resized, the middle is cropped out."""
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return resized(picture, (left, top, left + side, top + side), size)


def random_part(picture: Image, size: int, index: int, key: Key) -> Image:
    """A part of 8 to 100 % of the area and aspect 3:4 to 4:3, resized to `size` pixels a side; keyed by `key` and `index`."""
    return resized(picture, random_box(*picture.size, index, key.named("resized_crop")), size)


def random_box(width: int, height: int, index: int, key: Key) -> Box:
    """(left, top, right, bottom) in pixels; the middle square where ten tries give no part that fits."""
    which = np.array([index])
    for attempt in range(_TRIES):
        area, aspect, x, y = (float(key.uniform(which, 4 * attempt + draw)[0]) for draw in range(4))
        target = width * height * (_LEAST_AREA + (1 - _LEAST_AREA) * area)
        ratio = math.exp(math.log(_ASPECTS[0]) + aspect * (math.log(_ASPECTS[1]) - math.log(_ASPECTS[0])))
        wide, tall = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            left, top = int(x * (width - wide + 1)), int(y * (height - tall + 1))
            return left, top, left + wide, top + tall
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def resized(picture: Image, box: Box, size: int) -> Image:
    """The part `box` of `picture` as `size` x `size` pixels, bilinear with antialiasing; unchanged where it is that already."""
    from PIL.Image import Resampling

    if picture.size == (size, size) and box == (0, 0, size, size):
        return picture
    return picture.resize((size, size), Resampling.BILINEAR, box)
