"""Random erasing (Zhong et al., "Random erasing data augmentation", 2020); cutout if square."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from dnntrain.choices.augment._boxes import make_box_mask
from dnntrain.config.fields import Annotated, Positive, Probability, Range
from dnntrain.protocols import AugmentChoice, Batch, BatchStage, BatchTransform, BuildContext, DataFeature, Hooks
from dnntrain.utils.rng import Index, Key


@dataclass(frozen=True)
class RandomErasing(AugmentChoice):
    """Set a rectangle of the image to 0, the mean color.

    It takes `min_area` to `max_area` of the image, with an aspect up to `max_aspect`.
    """

    probability: Probability = 0.25  # probability of erasing a rectangle
    min_area: Annotated[float, Range(above=0, at_most=1)] = 0.02  # smallest area, as a fraction of the image
    max_area: Annotated[float, Range(above=0, at_most=1)] = 0.33  # largest area, as a fraction of the image
    max_aspect: Positive = 3.3  # largest ratio of the longer to the shorter side; at least 1

    needs: ClassVar[frozenset[DataFeature]] = frozenset({DataFeature.IMAGES})
    varies_images: ClassVar[bool] = True

    def build(self, context: BuildContext) -> Hooks:
        def erase(batch: Batch, key: Key) -> Batch:
            _, _, height, width = batch.inputs.shape
            boxes = draw_erasing_boxes(self, key.with_stream("random_erasing"), batch.rng_index, height, width)
            batch.inputs = erase_boxes(batch.inputs, boxes)
            return batch

        return Hooks(batch_transforms=(BatchTransform(BatchStage.AUGMENT, erase),))


def draw_erasing_boxes(options: RandomErasing, key: Key, index: Index, height: int, width: int) -> Index:
    """Draw boxes [n, 4] (top, left, height, width) in pixels, keyed by example.

    A box of height 0 erases nothing.
    """
    is_chosen = key.uniform(index, 0) < options.probability
    area = height * width * (options.min_area + (options.max_area - options.min_area) * key.uniform(index, 1))
    aspect = np.exp((2 * key.uniform(index, 2) - 1) * np.log(max(options.max_aspect, 1.0)))
    box_height = np.clip(np.rint(np.sqrt(area * aspect)), 1, height).astype(np.int64)
    box_width = np.clip(np.rint(np.sqrt(area / aspect)), 1, width).astype(np.int64)
    top = (key.uniform(index, 3) * (height - box_height + 1)).astype(np.int64)
    left = (key.uniform(index, 4) * (width - box_width + 1)).astype(np.int64)
    return np.stack([top, left, box_height * is_chosen, box_width], axis=1)


def erase_boxes(images: Tensor, boxes: Index) -> Tensor:
    """Return `images` [n, c, h, w] with each example's box set to 0, as a new tensor."""
    return images.masked_fill(make_box_mask(boxes, images), 0.0)
