"""Float8 training: which layers, with what numbers (in torchao's emulation), and where it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from short_runs import trained
from torch import nn

from dnntrain.choices.quant.float8_training import Float8Training, restore_linear_layers
from dnntrain.errors import ConfigError


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 10))


def test_a_product_is_that_of_inputs_and_weights_in_float8() -> None:
    model = Float8Training(min_layer_size=32).convert_model(network(), emulate=True)
    layer, plain = model[2], network()[2]
    inputs = torch.randn(16, 32)

    def rounded(values: torch.Tensor) -> torch.Tensor:
        """In e4m3, of which 448 is the largest number."""
        scale = 448 / values.abs().max()
        return (values * scale).to(torch.float8_e4m3fn).float() / scale

    expected = rounded(inputs) @ rounded(plain.weight).t() + plain.bias
    # torchao's scales are powers of two or not, by version: within half a step of e4m3.
    assert (layer(inputs) - expected).abs().max() < 0.05 * expected.std()
    assert not torch.equal(layer(inputs), plain(inputs))


def test_it_trains() -> None:
    model = Float8Training(min_layer_size=16, granularity="row").convert_model(network(), emulate=True)
    inputs, targets = torch.randn(32, 20), torch.arange(32) % 10
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_only_layers_of_the_size_that_pays_are_converted_and_names_stay() -> None:
    model = Float8Training(min_layer_size=32).convert_model(network(), emulate=True)
    assert [type(module).__name__ for module in model] == ["Linear", "ReLU", "Float8Linear", "ReLU", "Linear"]
    assert list(model.state_dict()) == list(network().state_dict())


def test_what_is_exported_is_the_plain_network() -> None:
    model = restore_linear_layers(Float8Training(min_layer_size=32).convert_model(network(), emulate=True))
    inputs = torch.randn(4, 20)
    assert all(type(module) in (nn.Linear, nn.ReLU) for module in model)
    assert torch.equal(model(inputs), network()(inputs))
    assert vars(model[2]).keys() == vars(nn.Linear(1, 1)).keys()


def test_a_model_without_such_a_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"quant\.min_layer_size=16"):
        Float8Training().convert_model(network())


def test_hardware_without_float8_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"compute capability 8\.9"):
        trained(tmp_path / "run", "quant=float8_training", "device=cpu")
