"""Random erasing: the boxes keep their bounds, depend on their example only, and erase exactly their pixels."""

from __future__ import annotations

import numpy as np
import torch

from dnntrain.choices.augment.random_erasing import RandomErasing, draw_erasing_boxes, erase_boxes
from dnntrain.utils.rng import Key


def test_boxes_lie_inside_the_image_and_keep_probability_and_area() -> None:
    knobs = RandomErasing(probability=0.5, min_area=0.1, max_area=0.3, max_aspect=2.0)
    boxes = draw_erasing_boxes(knobs, Key(0, "e"), np.arange(4000), 32, 40)
    top, left, tall, wide = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + tall <= 32).all()
    assert (left + wide <= 40).all()
    chosen = tall > 0
    assert 0.46 < chosen.mean() < 0.54
    share = (tall * wide)[chosen] / (32 * 40)
    assert share.min() > 0.08
    assert share.max() < 0.33


def test_an_example_gets_the_same_box_in_any_batch() -> None:
    knobs = RandomErasing(probability=1.0)
    whole = draw_erasing_boxes(knobs, Key(0, "e", 3), np.arange(100), 28, 28)
    assert np.array_equal(draw_erasing_boxes(knobs, Key(0, "e", 3), np.array([41, 7]), 28, 28), whole[[41, 7]])


def test_only_the_pixels_of_the_box_become_zero() -> None:
    images = torch.ones(2, 3, 6, 6)
    result = erase_boxes(images, np.array([[1, 2, 3, 2], [0, 0, 0, 4]]))
    assert result[0, :, 1:4, 2:4].sum() == 0
    assert result[0].sum() == 3 * (36 - 6)
    assert torch.equal(result[1], images[1])
    assert torch.equal(images, torch.ones(2, 3, 6, 6))
