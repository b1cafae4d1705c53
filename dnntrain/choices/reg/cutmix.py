"""CutMix (Yun et al., "CutMix: regularization strategy to train strong classifiers with localizable features", 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from dnntrain.choices.reg._boxes import inside
from dnntrain.choices.reg._pairs import blended, partners, soft, symmetric_beta
from dnntrain.config.fields import Positive, Probability
from dnntrain.protocols import Batch, BatchStage, BatchTransform, Context, Need, Parts
from dnntrain.utils.rng import Index, Key


@dataclass(frozen=True)
class Cutmix:
    """A box of the image is the partner's, of 1 - l of the area, l of Beta(alpha, alpha); targets mix by the areas that are seen."""

    alpha: Positive = 1.0  # of the Beta distribution; 1: the areas are spread evenly, as in the paper
    probability: Probability = 0.5  # share of the examples that get a box; the paper has 0.5 for CIFAR, 1 for ImageNet

    needs: ClassVar[frozenset[Need]] = frozenset()
    pairs: ClassVar[bool] = True

    def build(self, context: Context) -> Parts:
        def mix(batch: Batch, key: Key) -> Batch:
            return mixed(batch, key, self.alpha, self.probability, context)

        return Parts(batch=(BatchTransform(BatchStage.MIX, mix),))


def mixed(batch: Batch, key: Key, alpha: float, probability: float, context: Context) -> Batch:
    """`batch` with boxes of the partners' images and soft targets, both new tensors. Boxes are keyed by position."""
    _, _, height, width = batch.images.shape
    boxes = mixing_boxes(batch.position, key.named("cutmix"), alpha, probability, height, width)
    partner = partners(batch.position, context.times.size(batch.epoch), context.pair_block, key.named("pairs"))
    rows = torch.from_numpy(partner).to(batch.images.device)
    targets = soft(batch.targets, context.num_classes)
    batch.images = torch.where(inside(boxes, batch.images), batch.images[rows], batch.images)
    batch.targets = blended(targets, targets[rows], 1 - boxes[:, 2] * boxes[:, 3] / (height * width))
    return batch


def mixing_boxes(position: Index, key: Key, alpha: float, probability: float, height: int, width: int) -> Index:
    """[n, 4] boxes (top, left, height, width) in pixels: sides sqrt(1 - l) of the image's, the centre anywhere, cut at the border."""
    side = np.sqrt(1 - symmetric_beta(alpha, key, position)) * (key.uniform(position, 2) < probability)
    spans = []
    for draw, size in ((3, height), (4, width)):
        half, centre = (side * size).astype(np.int64) // 2, key.integers(position, size, draw)
        first, last = np.clip(centre - half, 0, size), np.clip(centre + half, 0, size)
        spans.append((first, last - first))
    (top, tall), (left, wide) = spans
    return np.stack([top, left, tall, wide], axis=1)
