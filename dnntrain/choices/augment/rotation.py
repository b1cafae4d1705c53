"""Random rotation of images about their center."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dnntrain.choices.augment._chosen_images import change_chosen
from dnntrain.choices.augment._warp import Maps, make_rotations, warp_images, warp_masks
from dnntrain.config.fields import Annotated, Range
from dnntrain.protocols import AugmentChoice, BuildContext, DataChoice, DataFeature, Hooks
from dnntrain.utils.rng import Index, Key


@dataclass(frozen=True)
class Rotation(AugmentChoice):
    """Turn each training image by an angle that is uniform in ±max_degrees.

    Values are bilinear; pixels from outside the image are black. It follows mirroring and cropping,
    on the bytes.
    """

    max_degrees: Annotated[float, Range(above=0, at_most=180)] = 15.0  # largest angle, in either direction
    probability: Annotated[float, Range(above=0, at_most=1)] = 1.0  # probability of turning an image

    varies_images: ClassVar[bool] = True
    needs: ClassVar[frozenset[DataFeature]] = frozenset({DataFeature.IMAGES})

    def describe(self, data: DataChoice) -> str:
        return f"rotation ±{self.max_degrees:g}°"

    def build(self, context: BuildContext) -> Hooks:
        transform = RandomRotation(self.max_degrees, self.probability)
        return Hooks(image_transforms=(transform,), mask_transforms=(transform.move_masks,))


@dataclass(frozen=True)
class RandomRotation:
    """The image transform of `Rotation`."""

    max_degrees: float
    probability: float

    def __call__(self, images: Tensor, number: Index, key: Key) -> Tensor:
        return self._warp(images, number, key, warp_images)

    def move_masks(self, masks: Tensor, number: Index, key: Key) -> Tensor:
        """Move the pixels of masks, uint8 [n, 1, h, w], as those of the images."""
        return self._warp(masks, number, key, warp_masks)

    def _warp(self, images: Tensor, number: Index, key: Key, warp: Callable[[Tensor, Maps], Tensor]) -> Tensor:
        key = key.with_stream("rotation")

        def rotate(chosen: Tensor, chosen_number: Index) -> Tensor:
            degrees = (2 * key.uniform(chosen_number, 1) - 1) * self.max_degrees
            return warp(chosen, make_rotations(degrees))

        return change_chosen(images, number, key, self.probability, rotate)
