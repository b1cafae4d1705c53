"""Random mirroring of images top to bottom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dnntrain.choices.augment._chosen_images import change_chosen
from dnntrain.config.fields import Annotated, Range
from dnntrain.protocols import AugmentChoice, BuildContext, DataChoice, DataFeature, Hooks
from dnntrain.utils.rng import Index, Key


@dataclass(frozen=True)
class VerticalFlip(AugmentChoice):
    """Mirror each training image top to bottom with `probability`, drawn again in each epoch."""

    probability: Annotated[float, Range(above=0, at_most=1)] = 0.5  # probability of mirroring an image top to bottom

    varies_images: ClassVar[bool] = True
    needs: ClassVar[frozenset[DataFeature]] = frozenset({DataFeature.IMAGES})

    def describe(self, data: DataChoice) -> str:
        return f"vertical flip {self.probability:g}"

    def build(self, context: BuildContext) -> Hooks:
        mirror = VerticalMirror(self.probability)
        return Hooks(image_transforms=(mirror,), mask_transforms=(mirror,))


@dataclass(frozen=True)
class VerticalMirror:
    """The image transform of `VerticalFlip`."""

    probability: float

    def __call__(self, images: Tensor, number: Index, key: Key) -> Tensor:
        key = key.with_stream("vertical_flip")
        return change_chosen(images, number, key, self.probability, lambda chosen, _: chosen.flip(2))
