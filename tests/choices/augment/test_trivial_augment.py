"""TrivialAugment: one operation of any strength for each image; its operations are compared in test_randaugment.py."""

from __future__ import annotations

import numpy as np
from stand_ins import context

from dnntrain.choices.augment._image_ops import BINS, AugmentPolicy
from dnntrain.choices.augment.trivial_augment import TrivialAugment
from dnntrain.utils.rng import Key


def test_operation_magnitude_and_sign_are_drawn_evenly_and_apart() -> None:
    (policy,) = TrivialAugment().build(context()).image_transforms
    assert isinstance(policy, AugmentPolicy)
    ((which, bins, negated),) = policy.draw_choices(np.arange(43_400), Key(0, "", 1))
    cells = np.bincount(which * BINS + bins, minlength=14 * BINS)
    assert 55 < cells.min() <= cells.max() < 150
    assert abs(np.corrcoef(bins, negated)[0, 1]) < 0.02


def test_another_epoch_draws_anew() -> None:
    (policy,) = TrivialAugment().build(context()).image_transforms
    assert isinstance(policy, AugmentPolicy)
    first, second = (policy.draw_choices(np.arange(1000), Key(0, "", epoch))[0][0] for epoch in (1, 2))
    assert 0.04 < (first == second).mean() < 0.11
