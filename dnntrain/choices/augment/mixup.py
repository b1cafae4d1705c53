"""Mixup (Zhang et al., "mixup: beyond empirical risk minimization", 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from dnntrain.choices.augment._pairs import blend_rows, draw_symmetric_beta, find_partners, to_soft_targets
from dnntrain.config.fields import Positive, Probability
from dnntrain.errors import ConfigError
from dnntrain.protocols import (
    AugmentChoice,
    Batch,
    BatchStage,
    BatchTransform,
    BuildContext,
    ColumnKind,
    Hooks,
    TaskFeature,
)
from dnntrain.utils.rng import Key


@dataclass(frozen=True)
class Mixup(AugmentChoice):
    """Mix image and target with the partner's: l * own + (1 - l) * partner's.

    l is drawn from Beta(alpha, alpha) for each example.
    """

    alpha: Positive = (
        0.2  # parameter of the Beta distribution: small mixes little, 1 uniformly; 0.1 to 0.4 in the paper
    )
    probability: Probability = 1.0  # probability of mixing an example

    needs: ClassVar[frozenset[TaskFeature]] = frozenset({TaskFeature.MIXABLE_TARGETS})
    example_relation: ClassVar[str] = "mixes"

    def build(self, context: BuildContext) -> Hooks:
        if names := [column.name for column in context.spec.inputs.list_columns(ColumnKind.CATEGORY)]:
            raise ConfigError(
                f"augment.mixup cannot mix the categories {', '.join(names[:5])}, because they are not numbers",
                "leave augment.mixup out",
            )

        def mix(batch: Batch, key: Key) -> Batch:
            return apply_mixup(batch, key, self.alpha, self.probability, context)

        return Hooks(batch_transforms=(BatchTransform(BatchStage.MIX, mix),))


def apply_mixup(batch: Batch, key: Key, alpha: float, probability: float, context: BuildContext) -> Batch:
    """Return `batch` with mixed images and soft targets, both new tensors.

    Shares are keyed by position.
    """
    draws = key.with_stream("mixup")
    share = draw_symmetric_beta(alpha, draws, batch.position)
    share = np.where(draws.uniform(batch.position, 2) < probability, share, 1.0)
    partner = find_partners(
        batch.position, context.epoch_schedule.batch_size_at(batch.epoch), context.pair_block, key.with_stream("pairs")
    )
    rows = torch.from_numpy(partner).to(batch.inputs.device)
    targets = to_soft_targets(batch.targets, context.spec.output.size)
    batch.inputs = blend_rows(batch.inputs, batch.inputs[rows], share)
    batch.targets = blend_rows(targets, targets[rows], share)
    return batch
