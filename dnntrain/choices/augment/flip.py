"""Random mirroring of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.config.fields import Probability
from dnntrain.protocols import AugmentChoice, BuildContext, DataChoice, DataFeature, Hooks


@dataclass(frozen=True)
class Flip(AugmentChoice):
    """Mirror each training image left to right with `probability`, drawn again in each epoch."""

    probability: Probability | None = (
        None  # probability of mirroring an image left to right; null: the data set's own value
    )

    needs: ClassVar[frozenset[DataFeature]] = frozenset({DataFeature.IMAGES})

    def changes_images_of(self, data: DataChoice) -> bool:
        return self._get_probability(data.default_flip_probability) > 0

    def describe(self, data: DataChoice) -> str:
        probability = self._get_probability(data.default_flip_probability)
        text = f"flip {probability:g}" if probability else "no flip"
        return text if self.probability is not None else f"{text} (the data set's own)"

    def build(self, context: BuildContext) -> Hooks:
        return Hooks(flip_probability=self._get_probability(context.default_flip_probability))

    def _get_probability(self, default: float) -> float:
        return default if self.probability is None else self.probability
