"""The channels-last format is left out where torch's CPU kernel writes out of bounds."""

from __future__ import annotations

import pytest
from torch import nn

import dnntrain
from dnntrain.nn.channels_last import overflows_in_channels_last


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Conv2d(4, 8, 1, stride=2), True),
        (nn.Conv2d(4, 8, 1, stride=(1, 2)), True),
        (nn.Conv2d(8, 16, 1, stride=2), False),
        (nn.Conv2d(4, 8, 1), False),
        (nn.Conv2d(4, 8, 3, stride=2), False),
        (nn.Linear(4, 8), False),
    ],
)
def test_small_convolutions_with_a_stride_are_found(module: nn.Module, expected: bool) -> None:
    assert overflows_in_channels_last(nn.Sequential(nn.ReLU(), module)) == expected


def test_the_plan_leaves_the_format_out_and_says_why() -> None:
    words = ("model=resnet_cifar", "model.depth=8", "model.shortcut=project", "device=cpu")
    unsafe = dnntrain.plan(*words, "model.width=4")
    assert not unsafe.channels_last
    assert any("writes out of bounds" in note for note in unsafe.notes)
    assert dnntrain.plan(*words, "model.width=8").channels_last
