"""Flips: the data set's own probability unless one is set, and that the plan says which."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dnntrain.choices.augment.flip import Flip
from dnntrain.choices.data.cifar100 import Cifar100
from dnntrain.choices.data.digits import Digits
from dnntrain.input.augment import Augmentation
from dnntrain.input.options import ImageData
from dnntrain.utils.rng import Key
from tests.support.stand_ins import context


@pytest.mark.parametrize(("data", "probability"), [(Cifar100(), 0.5), (Digits(), 0.0)])
def test_null_is_the_probability_of_the_data_set(data: ImageData, probability: float) -> None:
    hooks = Flip().build(replace(context(), default_flip_probability=data.default_flip_probability))
    assert hooks.flip_probability == probability
    assert Flip().changes_images_of(data) == (probability > 0)


def test_a_probability_that_is_set_wins() -> None:
    assert Flip(probability=0.25).build(replace(context(), default_flip_probability=0.5)).flip_probability == 0.25
    assert Flip(probability=0.25).describe(Cifar100()) == "flip 0.25"
    assert Flip(probability=0.0).describe(Cifar100()) == "no flip"
    assert Flip().describe(Cifar100()) == "flip 0.5 (the data set's own)"


@pytest.mark.parametrize("probability", [0.1, 0.5, 1.0])
def test_as_many_images_are_mirrored_as_asked(probability: float) -> None:
    _, _, mirrored = Augmentation(0, probability).draw_crop_and_flip(np.arange(9000), Key(7, "", 3))
    assert mirrored.mean() == pytest.approx(probability, abs=0.02)
