"""Weight standardisation: its formula, and the filters that it leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dnntrain.choices.norm.weight_standardization import StandardizedConv2d, WeightStandardization, standardize_weight
from dnntrain.errors import ConfigError


def test_each_filter_gets_mean_0_and_deviation_1() -> None:
    torch.manual_seed(0)
    weight = 3 + 2 * torch.randn(5, 4, 3, 3)
    found = standardize_weight(weight, 1e-5)
    flat = weight.flatten(1)
    expected = (flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-5)
    torch.testing.assert_close(found.flatten(1), expected)


def test_a_filter_of_one_number_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1, groups=4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    WeightStandardization().convert(model)
    assert [type(module) for module in model[:2]] == [nn.Conv2d, StandardizedConv2d]


def test_a_convolution_of_another_kind_is_refused() -> None:
    class Own(nn.Conv2d):
        pass

    with pytest.raises(ConfigError, match="Own"):
        WeightStandardization().convert(nn.Sequential(Own(3, 4, 3), nn.BatchNorm2d(4)))


def test_the_gradient_of_a_filter_lies_in_memory_as_the_filter_does() -> None:
    weight = torch.randn(4, 1, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    strides = []
    weight.register_hook(lambda gradient: strides.append(gradient.stride()))  # type: ignore[no-untyped-call]
    standardize_weight(weight, 1e-5).square().sum().backward()  # type: ignore[no-untyped-call]
    assert strides == [weight.stride()]
