"""Random changes of brightness, contrast, saturation and hue, as in torchvision's ColorJitter."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnntrain.choices.augment._image_ops import check_channels
from dnntrain.config.fields import Annotated, Fraction, Range
from dnntrain.protocols import AugmentChoice, BuildContext, DataChoice, DataFeature, Hooks, keep_masks
from dnntrain.utils.rng import Index, Key


@dataclass(frozen=True)
class ColorJitter(AugmentChoice):
    """Multiply brightness, contrast and saturation by factors in 1 ± the option, and turn the hue.

    The order is fixed: brightness, contrast, saturation, hue. Saturation and hue do not change gray
    images. It follows mirroring and cropping, on the bytes.
    """

    brightness: Fraction = 0.4  # largest change of the factor on all values
    contrast: Fraction = 0.4  # largest change of the factor on the distance from the mean gray of the image
    saturation: Fraction = 0.4  # largest change of the factor on the distance from gray; color images only
    hue: Annotated[float, Range(at_least=0, at_most=0.5)] = (
        0.0  # largest turn of the hue, as a fraction of the circle; color images only
    )

    varies_images: ClassVar[bool] = True
    needs: ClassVar[frozenset[DataFeature]] = frozenset({DataFeature.IMAGES})

    def __post_init__(self) -> None:
        if not any((self.brightness, self.contrast, self.saturation, self.hue)):
            raise ValueError("brightness, contrast, saturation and hue are all 0, which changes nothing")

    def describe(self, data: DataChoice) -> str:
        strengths = [f"{name} {strength:g}" for name, strength in vars(self).items() if strength]
        return f"color jitter ({', '.join(strengths)})"

    def build(self, context: BuildContext) -> Hooks:
        check_channels("color_jitter", context.spec.inputs.shape[0])
        transform = RandomColors(self.brightness, self.contrast, self.saturation, self.hue)
        return Hooks(image_transforms=(transform,), mask_transforms=(keep_masks,))


@dataclass(frozen=True)
class RandomColors:
    """The image transform of `ColorJitter`."""

    brightness: float
    contrast: float
    saturation: float
    hue: float

    def __call__(self, images: Tensor, number: Index, key: Key) -> Tensor:
        images, key = images.clone(), key.with_stream("color_jitter")
        draws = [2 * key.uniform(number, draw) - 1 for draw in range(4)]
        is_color = images.shape[1] == 3
        if self.brightness:
            images = _blend(images, torch.zeros((), device=images.device), 1 + self.brightness * draws[0])
        if self.contrast:
            # Sums of integers are exact, so they do not depend on the order of the sum.
            gray = _compute_gray(images)
            mean = gray.long().sum((1, 2, 3), keepdim=True).float() / gray[0].numel() if len(gray) else gray
            images = _blend(images, mean, 1 + self.contrast * draws[1])
        if self.saturation and is_color:
            images = _blend(images, _compute_gray(images), 1 + self.saturation * draws[2])
        if self.hue and is_color:
            images = _turn_hues(images, self.hue * draws[3])
        return images


def _blend(images: Tensor, others: Tensor, factors: NDArray[np.float64]) -> Tensor:
    """Return factor * image + (1 - factor) * other as bytes; `factors` [n]."""
    ratio = torch.from_numpy(factors.astype(np.float32)).to(images.device).view(-1, 1, 1, 1)
    return (ratio * images + (1 - ratio) * others).clamp(0, 255).to(torch.uint8)


def _compute_gray(images: Tensor) -> Tensor:
    """Return the luminance (ITU-R 601), rounded down, float [n, 1, h, w]."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = (images[:, band : band + 1].float() for band in range(3))
    return (0.2989 * red + 0.587 * green + 0.114 * blue).floor()


def _turn_hues(images: Tensor, turns: NDArray[np.float64]) -> Tensor:
    """Turn the hue of each image by its own fraction of the circle."""
    functional: Any = import_module("torchvision.transforms.v2.functional")
    turned = [functional.adjust_hue(images[row : row + 1].contiguous(), float(turn)) for row, turn in enumerate(turns)]
    return torch.cat(turned) if turned else images
