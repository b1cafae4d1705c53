"""Crop and resize a picture of any size to the size that the network sees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnntrain.protocols import IGNORED
from dnntrain.protocols.image_reading import ImageReading
from dnntrain.utils.rng import Key

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

#: Left, top, right and bottom.
Box = tuple[float, float, float, float]

#: Width and height.
Size = tuple[int, int]

#: Least area and extreme aspects of a random crop (Szegedy et al., "Going deeper with
#: convolutions", 2015).
_MIN_AREA = 0.08
_ASPECTS = (3 / 4, 4 / 3)
_TRIES = 10

#: The borders of a letterbox, as in YOLOv5; near the mean of photos.
_BORDER_GRAY = 114


class Placement(NamedTuple):
    """The box of a picture that becomes `height` x `width` pixels of the input.

    The box is in pixels of the whole picture. The rest of the input is border.
    """

    box: Box
    height: int
    width: int

    @property
    def shrinkage(self) -> float:
        """The factor by which the box becomes smaller: the lesser one of both sides."""
        left, top, right, bottom = self.box
        return min((right - left) / self.width, (bottom - top) / self.height)


def place_picture(whole: Size, size: tuple[int, int], reading: ImageReading) -> Placement:
    """Return where a picture of (width, height) `whole` is in an input of (height, width) `size`.

    It is cropped, fitted with borders, or stretched.
    """
    height, width = size
    whole_width, whole_height = whole
    box = (0.0, 0.0, float(whole_width), float(whole_height))
    if reading.resize == "stretch":
        return Placement(box, height, width)
    if reading.resize == "letterbox":
        scale = min(width / whole_width, height / whole_height)
        inner_width, inner_height = (max(1, round(side * scale)) for side in whole)
        return Placement(box, inner_height, inner_width)
    scale = min(whole_width / width, whole_height / height)
    left, top = (whole_width - width * scale) / 2, (whole_height - height * scale) / 2
    box = (
        *(max(left, 0.0), max(top, 0.0)),
        *(min(left + width * scale, float(whole_width)), min(top + height * scale, float(whole_height))),
    )
    return Placement(box if reading.decode == "full" else _round_box(box), height, width)


def _round_box(box: Box) -> Box:
    """Return a box of whole pixels, at least one on each side."""
    left, top = math.floor(box[0] + 0.5), math.floor(box[1] + 0.5)
    width, height = (max(1, math.floor(side + 0.5)) for side in (box[2] - box[0], box[3] - box[1]))
    return float(left), float(top), float(left + width), float(top + height)


def place_random_crop(whole: Size, size: tuple[int, int], index: int, key: Key) -> Placement:
    """Return a keyed random crop, for an input of (height, width) `size`.

    It has 8 to 100 % of the area of a picture of (width, height) `whole`, an aspect of 3:4 to 4:3, and whole pixels.
    """
    return Placement(draw_crop_box(*whole, index, key.with_stream("resized_crop")), *size)


def resize_picture(picture: Image, whole: Size, placement: Placement, size: tuple[int, int]) -> Image:
    """Return the input by Pillow's filter, bilinear and antialiased.

    `picture` is the whole one of (width, height) `whole`, or a smaller copy of it.
    """
    x, y = picture.width / whole[0], picture.height / whole[1]
    left, top, right, bottom = placement.box
    inner = crop_and_resize(picture, (left * x, top * y, right * x, bottom * y), placement.height, placement.width)
    return pad_to(inner, *size)


def resize_pixels(pixels: Tensor, placement: Placement, size: tuple[int, int]) -> Tensor:
    """Return the input by torch's filter, as Pillow's within one level: uint8 [channels, height, width].

    `pixels` are uint8 [channels, height, width] of the whole picture. The box must have whole pixels; those
    beyond it have no influence.
    """
    import torch

    left, top, right, bottom = (int(edge) for edge in placement.box)
    box, inner_size = pixels[None, :, top:bottom, left:right], (placement.height, placement.width)
    if box.shape[2:] != inner_size:
        box = torch.nn.functional.interpolate(box, inner_size, mode="bilinear", antialias=True)
    if inner_size == size:
        return box[0]
    border = torch.full((len(pixels), *size), _BORDER_GRAY, dtype=torch.uint8)
    top, left = (size[0] - placement.height) // 2, (size[1] - placement.width) // 2
    border[:, top : top + placement.height, left : left + placement.width] = box[0]
    return border


def resize_mask(mask: NDArray[np.uint8], placement: Placement, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the input of a mask [height, width] by its nearest pixels; 255 on borders."""
    from PIL import Image as PillowImage

    inner = PillowImage.fromarray(mask).resize(
        (placement.width, placement.height), PillowImage.Resampling.NEAREST, placement.box
    )
    return np.asarray(pad_to(inner, *size, IGNORED)).copy()


def pad_to(picture: Image, height: int, width: int, value: int = _BORDER_GRAY) -> Image:
    """Return the picture at the center of an image of that size, with borders of `value`.

    `picture` itself if it has that size.
    """
    from PIL import Image as PillowImage

    if picture.size == (width, height):
        return picture
    border = PillowImage.new(picture.mode, (width, height), (value,) * len(picture.getbands()))
    border.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
    return border


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
