"""Group normalisation: the number of groups, and its formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dnntrain.choices.norm.group import Group, choose_group_count
from dnntrain.choices.norm.layer import Layer


@pytest.mark.parametrize(
    ("channels", "smallest", "expected"),
    [(256, 4, 32), (64, 1, 32), (64, 4, 16), (16, 4, 4), (48, 1, 24), (7, 4, 1), (3, 4, 1), (36, 1, 36)],
)
def test_groups_divide_the_channels_and_leave_enough_in_each(channels: int, smallest: int, expected: int) -> None:
    assert choose_group_count(channels, 32, smallest) == expected


def test_each_example_is_normalised_over_its_group() -> None:
    torch.manual_seed(0)
    layer = Group(num_groups=2, min_channels_per_group=1).convert(nn.Sequential(nn.BatchNorm2d(4)))
    images = torch.randn(3, 4, 5, 5)
    groups = images.view(3, 2, -1)
    expected = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(layer(images), expected.view_as(images))


def test_layer_normalisation_is_over_channels_and_pixels() -> None:
    torch.manual_seed(0)
    images = torch.randn(3, 4, 5, 5)
    expected = nn.functional.layer_norm(images, (4, 5, 5))
    torch.testing.assert_close(Layer().convert(nn.Sequential(nn.BatchNorm2d(4)))(images), expected)
