"""Crop and resize a picture of any size to the size that the network sees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dnntrain.protocols import IGNORED
from dnntrain.utils.rng import Key

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[float, float, float, float]

#: Least area and extreme aspects of a random crop (Szegedy et al., "Going deeper with
#: convolutions", 2015).
_MIN_AREA = 0.08
_ASPECTS = (3 / 4, 4 / 3)
_TRIES = 10

#: The borders of a letterbox, as in YOLOv5; near the mean of photos.
_BORDER_GRAY = 114


def crop_center(picture: Image, height: int, width: int) -> Image:
    """Return the largest center crop of that aspect, resized to `height` x `width`."""
    picture_width, picture_height = picture.size
    scale = min(picture_width / width, picture_height / height)
    left, top = (picture_width - width * scale) / 2, (picture_height - height * scale) / 2
    return crop_and_resize(picture, (left, top, left + width * scale, top + height * scale), height, width)


def fit_image(picture: Image, height: int, width: int, mode: str) -> Image:
    """Return the picture at `height` x `width`: cropped, fitted with gray borders, or stretched."""
    picture_width, picture_height = picture.size
    if mode == "crop":
        return crop_center(picture, height, width)
    if mode == "stretch":
        return crop_and_resize(picture, (0.0, 0.0, float(picture_width), float(picture_height)), height, width)
    scale = min(width / picture_width, height / picture_height)
    inner_width, inner_height = (max(1, round(side * scale)) for side in picture.size)
    inner = crop_and_resize(picture, (0.0, 0.0, float(picture_width), float(picture_height)), inner_height, inner_width)
    return pad_to(inner, height, width)


def compute_shrinkage(whole: tuple[int, int], size: tuple[int, int], mode: str) -> float:
    """Return the factor by which `fit_image` makes a picture of (width, height) `whole` smaller.

    `size` is (height, width).
    """
    factors = whole[0] / size[1], whole[1] / size[0]
    return max(factors) if mode == "letterbox" else min(factors)


def fit_mask(mask: NDArray[np.uint8], height: int, width: int, mode: str) -> NDArray[np.uint8]:
    """Return a mask [height, width] after the steps of `fit_image`, with the nearest pixels; 255 on borders."""
    from PIL import Image as PillowImage

    picture = PillowImage.fromarray(mask)
    picture_width, picture_height = picture.size
    box = (0.0, 0.0, float(picture_width), float(picture_height))
    inner_width, inner_height = width, height
    if mode == "crop":
        scale = min(picture_width / width, picture_height / height)
        left, top = (picture_width - width * scale) / 2, (picture_height - height * scale) / 2
        box = (max(left, 0.0), max(top, 0.0), left + width * scale, top + height * scale)
        box = (*box[:2], min(box[2], float(picture_width)), min(box[3], float(picture_height)))
    elif mode == "letterbox":
        scale = min(width / picture_width, height / picture_height)
        inner_width, inner_height = (max(1, round(side * scale)) for side in picture.size)
    inner = picture.resize((inner_width, inner_height), PillowImage.Resampling.NEAREST, box)
    if (inner_width, inner_height) == (width, height):
        return np.asarray(inner).copy()
    border = PillowImage.new("L", (width, height), IGNORED)
    border.paste(inner, ((width - inner_width) // 2, (height - inner_height) // 2))
    return np.asarray(border).copy()


def pad_to(picture: Image, height: int, width: int) -> Image:
    """Return the picture at the center of a gray image of that size."""
    from PIL import Image as PillowImage

    border = PillowImage.new(picture.mode, (width, height), (_BORDER_GRAY,) * len(picture.getbands()))
    border.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
    return border


def crop_random(picture: Image, whole: tuple[int, int], size: tuple[int, int], index: int, key: Key) -> Image:
    """Return a keyed random crop, resized to `size` (height, width).

    It has 8 to 100 % of the area and an aspect of 3:4 to 4:3. `whole` is the (width, height) of the file's
    picture, of which `picture` may be a smaller one.
    """
    left, top, right, bottom = draw_random_box(whole, index, key)
    x, y = picture.width / whole[0], picture.height / whole[1]
    return crop_and_resize(picture, (left * x, top * y, right * x, bottom * y), *size)


def draw_random_box(whole: tuple[int, int], index: int, key: Key) -> Box:
    """Return the box of `crop_random` in a picture of (width, height) `whole`."""
    return draw_crop_box(*whole, index, key.with_stream("resized_crop"))


def draw_crop_box(width: int, height: int, index: int, key: Key) -> Box:
    """Return (left, top, right, bottom) in pixels.

    The center square if ten tries give no crop that fits.
    """
    image_index = np.array([index])
    for attempt in range(_TRIES):
        area, aspect, x, y = (float(key.uniform(image_index, 4 * attempt + draw)[0]) for draw in range(4))
        target_area = width * height * (_MIN_AREA + (1 - _MIN_AREA) * area)
        ratio = math.exp(math.log(_ASPECTS[0]) + aspect * (math.log(_ASPECTS[1]) - math.log(_ASPECTS[0])))
        box_width, box_height = round(math.sqrt(target_area * ratio)), round(math.sqrt(target_area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            left, top = int(x * (width - box_width + 1)), int(y * (height - box_height + 1))
            return left, top, left + box_width, top + box_height
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def crop_and_resize(picture: Image, box: Box, height: int, width: int) -> Image:
    """Return the crop `box` at `height` x `width` pixels, bilinear, antialiased.

    `picture` itself if it is equal.
    """
    from PIL.Image import Resampling

    if picture.size == (width, height) and box == (0.0, 0.0, float(width), float(height)):
        return picture
    picture_width, picture_height = picture.size
    left, top, right, bottom = box
    clipped_box = (max(left, 0.0), max(top, 0.0), min(right, float(picture_width)), min(bottom, float(picture_height)))
    return picture.resize((width, height), Resampling.BILINEAR, clipped_box)
