"""Rotation: the turn of a picture, its bounds, and that each image depends on itself alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from byte_images import KEY, apply_choice, check_each_image_depends_on_itself_alone, random_bytes
from torchvision.transforms.v2 import InterpolationMode, functional

from dnntrain.choices.augment._warp import make_rotations, warp_images
from dnntrain.choices.augment.rotation import Rotation


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_depends_on_itself_alone(channels: int) -> None:
    check_each_image_depends_on_itself_alone(Rotation(probability=0.9), channels)


def test_a_quarter_turn_is_exact_and_counterclockwise() -> None:
    images = random_bytes(2, 3, 9, 9)
    turned = warp_images(images, make_rotations(np.array([90.0, 90.0])))
    assert (turned.int() - torch.rot90(images, 1, (2, 3)).int()).abs().max() <= 1


def test_a_small_turn_is_that_of_torchvision() -> None:
    image = random_bytes(1, 3, 33, 41)
    expected = functional.rotate(image, 20.0, InterpolationMode.BILINEAR)
    found = warp_images(image, make_rotations(np.array([20.0])))
    inner = (..., slice(8, -8), slice(8, -8))
    assert (found[inner].int() - expected[inner].int()).abs().max() <= 1


def test_angles_keep_the_bound_and_the_probability() -> None:
    # A white disk in the middle of a dark image shows no turn; a marker at its right edge shows the angle.
    image = torch.zeros(1, 1, 41, 41, dtype=torch.uint8)
    image[0, 0, 20, 36:39] = 255
    turned = apply_choice(Rotation(max_degrees=30, probability=0.5), image.expand(300, -1, -1, -1), np.arange(300), KEY)
    weights = turned[:, 0].double()
    down = (weights * (torch.arange(41.0) - 20)[:, None]).sum((1, 2)) / weights.sum((1, 2))
    across = (weights * (torch.arange(41.0) - 20)).sum((1, 2)) / weights.sum((1, 2))
    degrees = torch.rad2deg(torch.atan2(-down, across))
    assert degrees.abs().max() < 30.5
    assert degrees.min() < -20
    assert degrees.max() > 20
    assert 0.4 < (degrees.abs() < 1e-9).double().mean() < 0.6
