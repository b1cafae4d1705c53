"""Crop and mirror images at random, keyed by (seed, epoch, example).

Each copy of an example has its own key.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnntrain.utils.rng import Index, Key


@dataclass(frozen=True)
class Augmentation:
    """Mirrors an image with `flip_probability`.

    Pads it by `crop_padding` zeros and crops it at a keyed position.
    """

    crop_padding: int = 0
    flip_probability: float = 0.0

    def __bool__(self) -> bool:
        return self.crop_padding > 0 or self.flip_probability > 0

    def draw_crop_and_flip(self, rng_index: Index, key: Key) -> tuple[Index, Index, NDArray[np.bool_]]:
        """Return (top, left, mirrored) for each of `rng_index` [n].

        Top and left are in [0, 2 * crop_padding] pixels.
        """
        bound = 2 * self.crop_padding + 1
        crop = key.with_stream("crop")
        mirrored = (
            key.with_stream("flip").uniform(rng_index) < self.flip_probability
            if self.flip_probability
            else np.zeros(len(rng_index), dtype=bool)
        )
        return crop.integers(rng_index, bound, 0), crop.integers(rng_index, bound, 1), mirrored


#: Evaluation does not augment.
NO_AUGMENTATION = Augmentation()


class RowAugmenter:
    """Augments many images at once.

    `rows` are uint8 [n, height * width * channels]; the channels of a pixel are adjacent. To move
    an image by (down, right) pixels, its row is read from another byte on: (down * width + right) *
    channels further. So all rows are laid end to end, mirrored ones behind, and each result is one
    window into them. Pixels that came from a neighbor are masked to the zeros of the padding. That
    is a few copies of whole rows, some ten times faster than indexing by pixel.
    """

    def __init__(self, augmentation: Augmentation, height: int, width: int, channels: int, device: str) -> None:
        self.augmentation = augmentation
        self.shape = (height, width, channels)
        padding = augmentation.crop_padding
        self._margin = (padding * width + padding) * channels
        shape = (2 * padding + 1, height, width, channels)
        self._row_mask = _make_inside_mask(height, padding)[:, :, None, None].expand(shape).flatten(1).to(device)
        self._column_mask = _make_inside_mask(width, padding)[:, None, :, None].expand(shape).flatten(1).to(device)

    def __call__(self, rows: Tensor, rng_index: Index, key: Key) -> Tensor:
        """Return `rows` augmented, as a new tensor; `rng_index` [n] keys the choices."""
        top, left, mirrored = self.augmentation.draw_crop_and_flip(rng_index, key)
        strip, start = self._build_strip(rows, mirrored)
        _, width, channels = self.shape
        start = start + (top * width + left) * channels
        size = rows.shape[1]
        windows = strip.as_strided((len(strip) - size + 1, size), (1, 1))
        result = windows.index_select(0, torch.from_numpy(start).to(rows.device))
        if self.augmentation.crop_padding:
            result &= self._row_mask.index_select(0, torch.from_numpy(top).to(rows.device))
            result &= self._column_mask.index_select(0, torch.from_numpy(left).to(rows.device))
        return result

    def _build_strip(self, rows: Tensor, mirrored: NDArray[np.bool_]) -> tuple[Tensor, Index]:
        """Return all rows and the mirrored ones end to end, and the start of each.

        The strip has margins. A start is the place of window (0, 0).
        """
        count, size = rows.shape
        mirrored_rows = np.flatnonzero(mirrored)
        height, width, channels = self.shape
        strip = rows.new_empty((count + len(mirrored_rows)) * size + 2 * self._margin)
        body = strip[self._margin : len(strip) - self._margin].view(-1, size)
        body[:count] = rows
        if len(mirrored_rows):
            images = rows.index_select(0, torch.from_numpy(mirrored_rows).to(rows.device)).view(
                -1, height, width, channels
            )
            body[count:] = images.flip(2).view(-1, size)
        row_slots = np.arange(count)
        row_slots[mirrored_rows] = np.arange(count, count + len(mirrored_rows))
        return strip, row_slots * size


def augment_image(image: Tensor, augmentation: Augmentation, rng_index: int, key: Key) -> Tensor:
    """Augment one image [channels, height, width] with torchvision.

    Choices and bytes are the same as in RowAugmenter.
    """
    functional: Any = import_module("torchvision.transforms.v2.functional")

    (top,), (left,), (mirrored,) = augmentation.draw_crop_and_flip(np.array([rng_index]), key)
    if mirrored:
        image = functional.horizontal_flip_image(image)
    if augmentation.crop_padding:
        height, width = image.shape[1:]
        image = functional.pad_image(image, [augmentation.crop_padding] * 4)
        image = functional.crop_image(image, int(top), int(left), height, width)
    return image


def _make_inside_mask(size: int, padding: int) -> Tensor:
    """Return uint8 [2 * padding + 1, size]: 255 if pixel `i + offset - padding` is in the image, 0 if padding."""
    source = torch.arange(size)[None] + torch.arange(2 * padding + 1)[:, None] - padding
    return ((source >= 0) & (source < size)).to(torch.uint8) * 255
