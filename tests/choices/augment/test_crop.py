"""Crops: the data set's own padding unless one is set, and that the plan says which."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dnntrain.choices.augment.crop import Crop
from dnntrain.choices.data.cifar10 import Cifar10
from dnntrain.choices.data.digits import Digits
from dnntrain.choices.data.mnist import Mnist
from dnntrain.input.options import ImageData
from tests.support.stand_ins import context


@pytest.mark.parametrize(("data", "padding"), [(Cifar10(), 4), (Digits(), 1), (Mnist(), 0)])
def test_null_is_the_padding_of_the_data_set(data: ImageData, padding: int) -> None:
    hooks = Crop().build(replace(context(), default_crop_padding=data.default_crop_padding))
    assert hooks.crop_padding == padding
    assert Crop().changes_images_of(data) == (padding > 0)


def test_a_padding_that_is_set_wins_and_zero_crops_nothing() -> None:
    assert Crop(padding=3).build(replace(context(), default_crop_padding=4)).crop_padding == 3
    assert Crop(padding=0).build(replace(context(), default_crop_padding=4)).crop_padding == 0
    assert not Crop(padding=0).changes_images_of(Cifar10())


def test_the_plan_says_whose_padding_it_is() -> None:
    assert Crop().describe(Cifar10()) == "crop 4 pixels (the data set's own)"
    assert Crop().describe(Mnist()) == "no crop (the data set's own)"
    assert Crop(padding=1).describe(Cifar10()) == "crop 1 pixel"
