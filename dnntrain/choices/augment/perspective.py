"""Random perspective: an image as seen from another side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dnntrain.choices.augment._chosen_images import change_chosen
from dnntrain.choices.augment._warp import Maps, solve_corner_maps, warp_images, warp_masks
from dnntrain.config.fields import Annotated, Range
from dnntrain.protocols import AugmentChoice, BuildContext, DataChoice, DataFeature, Hooks
from dnntrain.utils.rng import Index, Key


@dataclass(frozen=True)
class Perspective(AugmentChoice):
    """Move each corner of the image inward by up to distortion / 2 of the side, as torchvision does.

    The image is mapped onto the four moved corners; values are bilinear, and black outside. It
    follows mirroring and cropping, on the bytes.
    """

    distortion: Annotated[float, Range(above=0, below=1)] = (
        0.3  # how far corners move: up to this fraction of half a side
    )
    probability: Annotated[float, Range(above=0, at_most=1)] = 0.5  # probability of changing an image

    varies_images: ClassVar[bool] = True
    needs: ClassVar[frozenset[DataFeature]] = frozenset({DataFeature.IMAGES})

    def describe(self, data: DataChoice) -> str:
        return f"perspective {self.distortion:g}"

    def build(self, context: BuildContext) -> Hooks:
        transform = RandomPerspective(self.distortion, self.probability)
        return Hooks(image_transforms=(transform,), mask_transforms=(transform.move_masks,))


@dataclass(frozen=True)
class RandomPerspective:
    """The image transform of `Perspective`."""

    distortion: float
    probability: float

    def __call__(self, images: Tensor, number: Index, key: Key) -> Tensor:
        return self._warp(images, number, key, warp_images)

    def move_masks(self, masks: Tensor, number: Index, key: Key) -> Tensor:
        """Move the pixels of masks, uint8 [n, 1, h, w], as those of the images."""
        return self._warp(masks, number, key, warp_masks)

    def _warp(self, images: Tensor, number: Index, key: Key, warp: Callable[[Tensor, Maps], Tensor]) -> Tensor:
        key = key.with_stream("perspective")
        height, width = images.shape[2:]
        corners = list_corners(height, width)

        def change(chosen: Tensor, chosen_number: Index) -> Tensor:
            moved = move_corners(corners, self.distortion, chosen_number, key)
            return warp(chosen, solve_corner_maps(corners, moved))

        return change_chosen(images, number, key, self.probability, change)


def list_corners(height: int, width: int) -> NDArray[np.float64]:
    """Return the centers of the corner pixels, (x, y) [4, 2], clockwise from the upper left; (0, 0) is the middle."""
    right, bottom = (width - 1) / 2, (height - 1) / 2
    return np.array([[-right, -bottom], [right, -bottom], [right, bottom], [-right, bottom]])


def move_corners(corners: NDArray[np.float64], distortion: float, number: Index, key: Key) -> NDArray[np.float64]:
    """Return the moved corners [n, 4, 2]; each coordinate is keyed by the example."""
    draws = np.stack([key.uniform(number, draw) for draw in range(1, 9)], axis=1).reshape(len(number), 4, 2)
    return corners * (1 - distortion * draws)
