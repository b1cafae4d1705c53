"""Vertical flip: as many images as asked, each depending on itself alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from byte_images import apply_choice, check_each_image_depends_on_itself_alone, random_bytes

from dnntrain.choices.augment.vertical_flip import VerticalFlip


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_depends_on_itself_alone(channels: int) -> None:
    check_each_image_depends_on_itself_alone(VerticalFlip(), channels)


def test_as_many_images_as_asked_are_upside_down() -> None:
    images = random_bytes(500, 1, 5, 4)
    flipped = apply_choice(VerticalFlip(probability=0.25), images, np.arange(500))
    is_flipped = (flipped == images.flip(2)).flatten(1).all(1)
    assert torch.equal(flipped[~is_flipped], images[~is_flipped])
    assert 0.2 < is_flipped.double().mean() < 0.3
