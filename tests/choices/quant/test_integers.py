"""The integer form of a trained model: its weights are integers, its numbers those of the model that rounds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dnntrain.choices.model._basic_resnet import ResidualNetwork
from dnntrain.choices.quant._fake_quant import (
    apply_ranges,
    get_ranges,
    insert_fake_quantization,
    list_fake_modules,
    map_reaches,
)
from dnntrain.choices.quant._int_modules import convert_to_integers


def rounding_network(images: torch.Tensor) -> nn.Module:
    """A residual network in eval mode that rounds with the ranges of `images`."""
    torch.manual_seed(0)
    model = ResidualNetwork(
        1, 4, widths=(4, 8), blocks=(1, 1), shortcut="project", small_stem=True, zero_residual=False
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    insert_fake_quantization(model.eval(), (1, 8, 8))
    for module in list_fake_modules(model):
        module.observes = module.training = True  # type: ignore[assignment]
    model(images)
    for module, place in map_reaches(model).values():
        getattr(module, f"{place}_reach").copy_(getattr(module, f"{place}_seen").clamp_min(0))
    for module in list_fake_modules(model):
        module.observes, module.quantizes = False, True  # type: ignore[assignment]
    return model.eval()


@pytest.mark.slow
def test_it_computes_what_the_rounding_model_does() -> None:
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    model = rounding_network(images)
    expected = model(images)
    found = convert_to_integers(model)(images)
    # A last digit may decide which of two integers a number becomes.
    assert (found - expected).abs().max() < 0.05 * expected.std()
    assert (found - expected).abs().median() < 1e-3 * expected.std()
    assert torch.equal(model(images), expected)


def test_no_weight_is_kept_as_a_float() -> None:
    model = convert_to_integers(rounding_network(torch.randn(4, 1, 8, 8)))
    assert not list(model.parameters())
    kinds = {name: tensor.dtype for name, tensor in model.named_buffers() if name.endswith("integers")}
    assert len(kinds) == 7
    assert set(kinds.values()) == {torch.int8}
    assert not any("norm" in name for name, _ in model.named_buffers())


def test_ranges_travel_as_numbers() -> None:
    images = torch.randn(8, 1, 8, 8)
    model = rounding_network(images)
    plain = ResidualNetwork(
        1, 4, widths=(4, 8), blocks=(1, 1), shortcut="project", small_stem=True, zero_residual=False
    )
    plain.load_state_dict(model.state_dict())
    again = apply_ranges(plain.eval(), (1, 8, 8), get_ranges(model))
    assert torch.equal(again(images), model(images))
