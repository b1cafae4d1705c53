"""Perspective: corners go where they are drawn, and each image depends on itself alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from byte_images import KEY, check_each_image_depends_on_itself_alone, random_bytes
from torchvision.transforms.v2 import InterpolationMode, functional

from dnntrain.choices.augment._warp import solve_corner_maps, warp_images
from dnntrain.choices.augment.perspective import Perspective, list_corners, move_corners


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_depends_on_itself_alone(channels: int) -> None:
    check_each_image_depends_on_itself_alone(Perspective(), channels)


def test_corners_move_inward_by_at_most_the_distortion() -> None:
    corners = list_corners(21, 41)
    moved = move_corners(corners, 0.4, np.arange(500), KEY)
    assert (np.sign(moved) == np.sign(corners)).all()
    share = 1 - moved / corners
    assert share.min() >= 0
    assert 0.35 < share.max() < 0.4


def test_the_image_is_that_of_torchvision_for_the_same_corners() -> None:
    image = random_bytes(1, 3, 32, 48)
    corners = list_corners(32, 48)
    moved = move_corners(corners, 0.5, np.array([7]), KEY)
    found = warp_images(image, solve_corner_maps(corners, moved))
    middle = np.array([47 / 2, 31 / 2])
    start, end = (corners + middle).tolist(), (moved[0] + middle).tolist()
    # torchvision's corners are edges of pixels, half a pixel further than their centers.
    start, end = ([[x + 0.5, y + 0.5] for x, y in points] for points in (start, end))
    expected = functional.perspective(image, start, end, InterpolationMode.BILINEAR)
    difference = (found.int() - expected.int()).abs()[0]
    inside = (expected > 0).all(1)[0] & (found > 0).all(1)[0]
    assert torch.quantile(difference[:, inside].double(), 0.95) <= 2
