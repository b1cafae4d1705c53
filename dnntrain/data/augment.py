"""Random crop and mirroring of bytes. What is chosen for an example depends on (seed, epoch, its number) only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from dnntrain.keys import Index, Key

if TYPE_CHECKING:
    from dnntrain.data.image_data import ImageData


@dataclass(frozen=True)
class Augmentation:
    """Pads by `crop_padding` zero pixels on each side, crops back to the size at a keyed place; mirrors every other image."""

    crop_padding: int
    flip: bool

    @classmethod
    def of(cls, options: ImageData) -> Augmentation:
        return cls(options.crop_padding, options.flip)

    def __bool__(self) -> bool:
        return self.crop_padding > 0 or self.flip

    def choices(self, index: Index, key: Key) -> tuple[Index, Index, NDArray[np.bool_]]:
        """(top, left, mirrored) for each example of `index` [n]; top and left are pixels in [0, 2 * crop_padding]."""
        bound = 2 * self.crop_padding + 1
        crop = key.named("crop")
        mirrored = key.named("flip").uniform(index) < 0.5 if self.flip else np.zeros(len(index), dtype=bool)
        return crop.integers(index, bound, 0), crop.integers(index, bound, 1), mirrored


def augmented(images: Tensor, augmentation: Augmentation, index: Index, key: Key) -> Tensor:
    """`images` uint8 [n, channels, height, width] augmented, a new tensor in the same memory format; `index` [n] are their numbers."""
    top, left, mirrored = augmentation.choices(index, key)
    if augmentation.crop_padding:
        images = cropped(images, augmentation.crop_padding, top, left)
    if augmentation.flip:
        images = torch.where(torch.from_numpy(mirrored).to(images.device)[:, None, None, None], images.flip(3), images)
    return images


def cropped(images: Tensor, padding: int, top: Index, left: Index) -> Tensor:
    """Each image padded with `padding` zeros and cropped back at its own (top, left)."""
    _, _, height, width = images.shape
    padded = pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    rows = torch.arange(len(images), device=images.device)
    places = (torch.from_numpy(place).to(images.device) for place in (top, left))
    return windows[rows, :, *places].contiguous(memory_format=_format(images))


def augmented_one(image: Tensor, augmentation: Augmentation, index: int, key: Key) -> Tensor:
    """One image [channels, height, width]: the same choices and the same bytes as `augmented`, by torchvision's transforms."""
    from torchvision.transforms.v2 import functional

    (top,), (left,), (mirrored,) = augmentation.choices(np.array([index]), key)
    if augmentation.crop_padding:
        height, width = image.shape[1:]
        image = functional.pad(image, [augmentation.crop_padding] * 4)
        image = functional.crop(image, int(top), int(left), height, width)
    return functional.horizontal_flip(image) if mirrored else image


def _format(images: Tensor) -> torch.memory_format:
    return torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
