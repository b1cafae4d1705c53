"""CutMix.

Yun et al., "CutMix: regularization strategy to train strong classifiers with localizable features",
2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from dnntrain.choices.augment._boxes import make_box_mask
from dnntrain.choices.augment._pairs import blend_rows, draw_symmetric_beta, find_partners, to_soft_targets
from dnntrain.config.fields import Positive, Probability
from dnntrain.protocols import (
    AugmentChoice,
    Batch,
    BatchStage,
    BatchTransform,
    BuildContext,
    DataFeature,
    Hooks,
    TargetKind,
    TaskFeature,
)
from dnntrain.utils.rng import Index, Key


@dataclass(frozen=True)
class Cutmix(AugmentChoice):
    """Replace a box of the image by the partner's pixels; mix the targets by visible area.

    Masks get the box of the partner's mask. The box takes 1 - l of the area, with l drawn from Beta(alpha, alpha).
    """

    alpha: Positive = 1.0  # parameter of the Beta distribution; 1: areas are uniform, as in the paper
    probability: Probability = 0.5  # probability of pasting a box; the paper has 0.5 for CIFAR, 1 for ImageNet

    needs: ClassVar[frozenset[TaskFeature | DataFeature]] = frozenset(
        {TaskFeature.PASTABLE_TARGETS, DataFeature.IMAGES}
    )
    example_relation: ClassVar[str] = "mixes"

    def build(self, context: BuildContext) -> Hooks:
        def mix(batch: Batch, key: Key) -> Batch:
            return apply_cutmix(batch, key, self.alpha, self.probability, context)

        return Hooks(batch_transforms=(BatchTransform(BatchStage.MIX, mix),))


def apply_cutmix(batch: Batch, key: Key, alpha: float, probability: float, context: BuildContext) -> Batch:
    """Return `batch` with the partners' boxes and soft targets, both new tensors.

    Boxes are keyed by position.
    """
    _, _, height, width = batch.inputs.shape
    boxes = draw_mixing_boxes(batch.position, key.with_stream("cutmix"), alpha, probability, height, width)
    partner = find_partners(
        batch.position, context.epoch_schedule.batch_size_at(batch.epoch), context.pair_block, key.with_stream("pairs")
    )
    rows = torch.from_numpy(partner).to(batch.inputs.device)
    is_box = make_box_mask(boxes, batch.inputs)
    batch.inputs = torch.where(is_box, batch.inputs[rows], batch.inputs)
    if context.spec.targets.kind is TargetKind.MASK:
        batch.targets = torch.where(is_box[:, 0], batch.targets[rows], batch.targets)
        return batch
    targets = to_soft_targets(batch.targets, context.spec.output.size)
    batch.targets = blend_rows(targets, targets[rows], 1 - boxes[:, 2] * boxes[:, 3] / (height * width))
    return batch


def draw_mixing_boxes(position: Index, key: Key, alpha: float, probability: float, height: int, width: int) -> Index:
    """Draw boxes [n, 4] (top, left, height, width) in pixels.

    Sides are sqrt(1 - l) of the image's; the center is anywhere, and the box is cut at the border.
    """
    side = np.sqrt(1 - draw_symmetric_beta(alpha, key, position)) * (key.uniform(position, 2) < probability)
    spans = []
    for draw, size in ((3, height), (4, width)):
        half, center = (side * size).astype(np.int64) // 2, key.integers(position, size, draw)
        first, last = np.clip(center - half, 0, size), np.clip(center + half, 0, size)
        spans.append((first, last - first))
    (top, box_height), (left, box_width) = spans
    return np.stack([top, left, box_height, box_width], axis=1)
