"""First weights are a function of the seed and the name of the module, and of nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dnntrain.choices.model._adapters import build_and_check
from dnntrain.choices.model._init_schemes import INIT_SCHEMES
from dnntrain.choices.model.small_cnn import SmallCnn
from dnntrain.nn.init import initialize_weights
from dnntrain.nn.shape import ModelShape


def weights(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    initialize_weights(model, seed)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_the_order_of_construction_does_not_matter() -> None:
    one = nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Conv2d(1, 2, 3)})
    two = nn.ModuleDict({"b": nn.Conv2d(1, 2, 3), "a": nn.Linear(3, 4)})
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_other_modules_do_not_matter() -> None:
    alone = weights(nn.ModuleDict({"a": nn.Linear(3, 4)}))
    beside = weights(nn.ModuleDict({"z": nn.Linear(5, 6), "a": nn.Linear(3, 4)}))
    assert torch.equal(alone["a.weight"], beside["a.weight"])


def test_renaming_a_module_changes_that_module_only() -> None:
    before = weights(nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(3, 4)}))
    after = weights(nn.ModuleDict({"a": nn.Linear(3, 4), "c": nn.Linear(3, 4)}))
    assert torch.equal(before["a.weight"], after["a.weight"])
    assert not torch.equal(before["b.weight"], after["c.weight"])


def test_alike_modules_differ_by_their_names() -> None:
    both = weights(nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(3, 4)}))
    assert not torch.equal(both["a.weight"], both["b.weight"])


def test_seeds_differ() -> None:
    model = nn.Linear(3, 4)
    assert not torch.equal(weights(model, 0)["weight"], weights(model, 1)["weight"])


def test_torchs_generator_is_as_before() -> None:
    model = SmallCnn(init="orthogonal").build(ModelShape(10, 1, 8, 8))
    before = torch.get_rng_state()
    initialize_weights(model, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_weight_and_running_statistic_is_set_anew() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.MultiheadAttention(8, 2))
    first = weights(model)
    for tensor in model.state_dict().values():
        tensor.fill_(7)
    assert all(torch.equal(value, first[name]) for name, value in weights(model).items())


def test_bare_parameters_are_set_by_their_modules_own_rule() -> None:
    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(4))
            self.linear = nn.Linear(2, 2)

        def initialize_own_parameters(self) -> None:
            nn.init.normal_(self.token)
            nn.init.zeros_(self.linear.weight)

    first, second = weights(Token()), weights(Token())
    assert torch.equal(first["token"], second["token"])
    assert first["token"].any()
    assert not first["linear.weight"].any(), "the rule comes after those of the layers"


class Library(nn.Module):
    """As models of libraries are: the constructor holds the rules."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 10)
        nn.init.constant_(self.linear.bias, 0.25)
        self.scale = nn.Parameter(torch.rand(()))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images.flatten(1)) * self.scale
        return logits


def test_models_of_libraries_keep_the_rules_of_their_constructors() -> None:
    def build(global_seed: int) -> nn.Module:
        torch.manual_seed(global_seed)
        return build_and_check(Library, ModelShape(10, 1, 1, 2), "the model")

    first, second = weights(build(1)), weights(build(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (first["linear.bias"] == 0.25).all()
    other = weights(build(1), seed=5)
    assert not torch.equal(first["linear.weight"], other["linear.weight"])
    assert first["scale"] != other["scale"]


def test_layers_that_a_transform_puts_into_a_librarys_model_are_reset_by_their_own_rule() -> None:
    model: Any = build_and_check(Library, ModelShape(10, 1, 1, 2), "the model")
    model.linear = nn.Linear(3, 10)
    initialize_weights(model, 0)
    replaced = model.linear.weight.clone()
    model.linear.weight.data.fill_(9)
    initialize_weights(model, 0)
    assert torch.equal(model.linear.weight, replaced)


@pytest.mark.parametrize("scheme", [name for name in INIT_SCHEMES if name != "default"])
def test_schemes_keep_the_size_of_activations_through_rectifiers(scheme: str) -> None:
    model = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(256, 256), nn.ReLU())))
    model.weight_scheme = INIT_SCHEMES[scheme]  # type: ignore[assignment]
    initialize_weights(model, 0)
    inputs = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert 0.3 < float(model(inputs).norm() / inputs.norm()) < 3
    assert not any(layer.bias.any() for layer in model if isinstance(layer, nn.Linear))


def test_orthogonal_weights_are_orthogonal() -> None:
    model: Any = SmallCnn(init="orthogonal").build(ModelShape(10, 1, 8, 8))
    initialize_weights(model, 0)
    matrix = model.conv2.weight.flatten(1) / math.sqrt(2)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(64), atol=1e-5, rtol=0)
