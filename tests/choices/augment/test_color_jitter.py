"""Color jitter: torchvision's arithmetic, factors within the bounds, and each image depends on itself alone."""

from __future__ import annotations

import numpy as np
import pytest
from byte_images import KEY, apply_choice, check_each_image_depends_on_itself_alone, random_bytes
from torchvision.transforms.v2 import functional

from dnntrain.choices.augment.color_jitter import ColorJitter


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_depends_on_itself_alone(channels: int) -> None:
    check_each_image_depends_on_itself_alone(ColorJitter(hue=0.1), channels)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_each_part_is_that_of_torchvision(name: str) -> None:
    images, number = random_bytes(6), np.arange(6)
    others = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
    found = apply_choice(ColorJitter(**{**others, name: 0.4}), images, number)
    draw = list(others).index(name)
    changes = 0.4 * (2 * KEY.with_stream("color_jitter").uniform(number, draw) - 1)
    adjust = getattr(functional, f"adjust_{name}")
    for image, result, change in zip(images, found, changes, strict=True):
        expected = adjust(image, change if name == "hue" else 1 + change)
        assert (result.int() - expected.int()).abs().max() <= 1


def test_no_change_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="changes nothing"):
        ColorJitter(brightness=0, contrast=0, saturation=0)
