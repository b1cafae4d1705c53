"""From a picture of any size to the square that the network sees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from dnntrain.utils.rng import Key

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[float, float, float, float]

#: Least area and extreme aspects of a random part (Szegedy et al., "Going deeper with convolutions", 2015).
_LEAST_AREA = 0.08
_ASPECTS = (3 / 4, 4 / 3)
_TRIES = 10


def centre_part(picture: Image, height: int, width: int) -> Image:
    """The largest middle part of the aspect `height` : `width`, resized to that many pixels."""
    have_width, have_height = picture.size
    scale = min(have_width / width, have_height / height)
    left, top = (have_width - width * scale) / 2, (have_height - height * scale) / 2
    return resized(picture, (left, top, left + width * scale, top + height * scale), height, width)


def random_part(picture: Image, size: int, index: int, key: Key) -> Image:
    """A part of 8 to 100 % of the area and aspect 3:4 to 4:3, resized to a square of `size` pixels; keyed."""
    return resized(picture, random_box(*picture.size, index, key.named("resized_crop")), size, size)


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


def resized(picture: Image, box: Box, height: int, width: int) -> Image:
    """The part `box` at `height` x `width` pixels, bilinear, antialiased; `picture` itself where it is that already."""
    from PIL.Image import Resampling

    if picture.size == (width, height) and box == (0.0, 0.0, float(width), float(height)):
        return picture
    have_width, have_height = picture.size
    left, top, right, bottom = box
    within = (max(left, 0.0), max(top, 0.0), min(right, float(have_width)), min(bottom, float(have_height)))
    return picture.resize((width, height), Resampling.BILINEAR, within)
