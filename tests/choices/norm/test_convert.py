"""Conversion works on models of torchvision and timm, keeps names and weights, and refuses what it cannot change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dnntrain.choices.norm.frozen import Frozen
from dnntrain.choices.norm.ghost import Ghost
from dnntrain.choices.norm.group import Group
from dnntrain.choices.norm.layer import Layer
from dnntrain.choices.norm.per_rank import PerRank
from dnntrain.choices.norm.sync import Sync
from dnntrain.choices.norm.weight_standardization import WeightStandardization, bake_standardized_filters
from dnntrain.errors import ConfigError

BATCH: list[Any] = [PerRank(), Sync(), Ghost(virtual_batch_size=2), Frozen()]
EXAMPLE: list[Any] = [Group(), Layer(), WeightStandardization()]


def activated() -> nn.Module:
    """A network of timm whose normalisation layers hold their activation."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("mobilenetv3_small_050", num_classes=3)
    return model


def residual() -> nn.Module:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    model: nn.Module = resnet18(num_classes=3)
    return model


@pytest.mark.sampled
@pytest.mark.parametrize("choice", BATCH, ids=lambda choice: type(choice).__name__)
@pytest.mark.parametrize("build", [activated, residual])
def test_a_converted_model_evaluates_to_the_same(choice: Any, build: Any) -> None:
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(choice.convert(build()).eval()(images), build().eval()(images))


@pytest.mark.sampled
@pytest.mark.parametrize("choice", [*BATCH, *EXAMPLE], ids=lambda choice: type(choice).__name__)
def test_parameters_keep_their_names_and_values(choice: Any) -> None:
    plain = dict(residual().named_parameters())
    converted = dict(choice.convert(residual()).named_parameters())
    assert list(converted) == list(plain)
    assert all(torch.equal(converted[name], plain[name]) for name in plain)


@pytest.mark.parametrize("choice", [*BATCH, Group(), Layer()], ids=lambda choice: type(choice).__name__)
def test_activations_inside_normalisation_layers_stay(choice: Any) -> None:
    model = choice.convert(activated()).train()
    norm = next(module for module in model.modules() if isinstance(module._modules.get("act"), nn.Hardswish | nn.ReLU))
    assert isinstance(norm, nn.Module)
    outputs = norm(torch.randn(4, norm.weight.numel(), 2, 2))
    assert float(outputs.detach().min()) >= -0.376  # the least value of hard swish


def test_a_model_without_batch_normalisation_is_refused() -> None:
    for choice in (*BATCH, *EXAMPLE):
        with pytest.raises(ConfigError, match="has none"):
            choice.convert(nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm(2)))


def test_a_layer_with_a_forward_pass_of_its_own_is_refused() -> None:
    class Odd(nn.BatchNorm2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return input

    with pytest.raises(ConfigError, match="Odd"):
        Sync().convert(nn.Sequential(Odd(3)))


def test_a_layer_that_stands_at_two_places_is_replaced_at_both() -> None:
    shared = nn.BatchNorm2d(8)
    model = Group().convert(nn.Sequential(shared, nn.ReLU(), shared))
    assert isinstance(model[0], nn.GroupNorm)  # type: ignore[index]
    assert model[0] is model[2]  # type: ignore[index]


@pytest.mark.slow
def test_standardised_filters_are_baked_into_the_export_without_changing_outputs() -> None:
    model = WeightStandardization().convert(residual()).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
        exported = WeightStandardization().convert_for_export(residual())
        exported.load_state_dict(bake_standardized_filters(model).state_dict())
        torch.testing.assert_close(exported.eval()(images), expected)
    assert all(type(module) is nn.Conv2d for module in model.modules() if isinstance(module, nn.Conv2d))
