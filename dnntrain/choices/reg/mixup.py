"""Mixup (Zhang et al., "mixup: beyond empirical risk minimization", 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from dnntrain.choices.reg._pairs import blended, partners, soft, symmetric_beta
from dnntrain.config.fields import Positive, Probability
from dnntrain.protocols import Batch, BatchStage, BatchTransform, Context, Need, Parts
from dnntrain.utils.rng import Key


@dataclass(frozen=True)
class Mixup:
    """Image and target become l * own + (1 - l) * partner's, l of Beta(alpha, alpha) for each example."""

    alpha: Positive = (
        0.2  # of the Beta distribution: small mixes little, 1 evenly; 0.1 to 0.4 in the paper for ImageNet
    )
    probability: Probability = 1.0  # share of the examples that are mixed

    needs: ClassVar[frozenset[Need]] = frozenset()
    pairs: ClassVar[bool] = True

    def build(self, context: Context) -> Parts:
        def mix(batch: Batch, key: Key) -> Batch:
            return mixed(batch, key, self.alpha, self.probability, context)

        return Parts(batch=(BatchTransform(BatchStage.MIX, mix),))


def mixed(batch: Batch, key: Key, alpha: float, probability: float, context: Context) -> Batch:
    """`batch` with mixed images and soft targets, both new tensors. Shares are keyed by position."""
    draws = key.named("mixup")
    share = symmetric_beta(alpha, draws, batch.position)
    share = np.where(draws.uniform(batch.position, 2) < probability, share, 1.0)
    partner = partners(batch.position, context.times.size(batch.epoch), context.pair_block, key.named("pairs"))
    rows = torch.from_numpy(partner).to(batch.images.device)
    targets = soft(batch.targets, context.num_classes)
    batch.images = blended(batch.images, batch.images[rows], share)
    batch.targets = blended(targets, targets[rows], share)
    return batch
