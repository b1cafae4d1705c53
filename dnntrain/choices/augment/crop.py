"""Random crops of padded images (He et al., "Deep residual learning …", 2016, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.config.fields import NonNegativeInt
from dnntrain.protocols import AugmentChoice, BuildContext, DataChoice, DataFeature, Hooks
from dnntrain.utils.units import pluralize


@dataclass(frozen=True)
class Crop(AugmentChoice):
    """Pad each training image with `padding` zeros on every side; crop it at a random place.

    The crop has the size of the image.
    """

    padding: NonNegativeInt | None = None  # zero pixels of padding before a random crop; null: the data set's own value

    needs: ClassVar[frozenset[DataFeature]] = frozenset({DataFeature.IMAGES})

    def changes_images_of(self, data: DataChoice) -> bool:
        return self._get_padding(data.default_crop_padding) > 0

    def describe(self, data: DataChoice) -> str:
        padding = self._get_padding(data.default_crop_padding)
        text = f"crop {pluralize(padding, 'pixel')}" if padding else "no crop"
        return text if self.padding is not None else f"{text} (the data set's own)"

    def build(self, context: BuildContext) -> Hooks:
        return Hooks(crop_padding=self._get_padding(context.default_crop_padding))

    def _get_padding(self, default: int) -> int:
        return default if self.padding is None else self.padding
