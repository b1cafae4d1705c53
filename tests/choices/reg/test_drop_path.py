"""Stochastic depth: rates by depth, examples drop by themselves, and every kind of model that has residual branches."""

from __future__ import annotations

import pytest
import timm
import torch
from stand_ins import context
from torch import nn
from torchvision.ops import StochasticDepth

from dnntrain.choices.model.resnet_cifar import ResnetCifar
from dnntrain.choices.model.small_cnn import SmallCnn
from dnntrain.choices.model.torchvision import Torchvision
from dnntrain.choices.model.vit_tiny import VitTiny
from dnntrain.choices.model.wide_resnet import WideResnet
from dnntrain.choices.reg.drop_path import DropPath, compute_drop_rates, find_branch_ends
from dnntrain.errors import ConfigError
from dnntrain.nn.shape import ModelShape

SHAPE = ModelShape(10, 1, 8, 8)


def applied(model: nn.Module, knobs: DropPath) -> nn.Module:
    (transform,) = knobs.build(context()).model_transforms
    return transform.apply(model)


def rates_of(model: nn.Module) -> list[float]:
    return [module.p for module in model.modules() if isinstance(module, StochasticDepth)]


def test_rates_rise_linearly_to_that_of_the_deepest_block() -> None:
    assert compute_drop_rates(4, 0.2, "linear") == pytest.approx([0.05, 0.1, 0.15, 0.2])
    assert compute_drop_rates(3, 0.2, "constant") == [0.2] * 3


@pytest.mark.parametrize(
    ("choice", "blocks", "each"),
    [(ResnetCifar(depth=20), 9, 1), (WideResnet(), 6, 1), (VitTiny(embed_dim=12, depth=4, num_heads=3), 4, 2)],
)
def test_built_in_models_drop_each_block_by_its_depth_and_keep_their_names(
    choice: ResnetCifar | WideResnet | VitTiny, blocks: int, each: int
) -> None:
    names = list(choice.build(SHAPE).state_dict())
    model = applied(choice.build(SHAPE), DropPath(probability=0.3))
    expected = [0.3 * block / blocks for block in range(1, blocks + 1) for _ in range(each)]
    assert rates_of(model) == pytest.approx(expected)
    assert list(model.state_dict()) == names
    model(torch.randn(2, 1, 8, 8)).sum().backward()


def test_an_example_that_drops_a_branch_is_its_shortcut_and_one_that_keeps_it_is_scaled() -> None:
    torch.manual_seed(0)
    model = applied(ResnetCifar(depth=8).build(SHAPE), DropPath(probability=0.4, depth_schedule="constant"))
    block = model.get_submodule("stages.0.0")
    branch = block.drop_path
    ones = branch(torch.ones(1000, 2, 2, 2))
    assert ones.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    assert (ones.flatten(1).min(1).values == ones.flatten(1).max(1).values).all()
    assert 0.35 < float((ones[:, 0, 0, 0] == 0).float().mean()) < 0.45
    assert torch.equal(model.eval().get_submodule("stages.0.0").drop_path(torch.ones(4, 1)), torch.ones(4, 1))


def test_torchvisions_stochastic_depth_is_set() -> None:
    model = applied(Torchvision(name="efficientnet_b0").build(ModelShape(10, 3, 32, 32)), DropPath(probability=0.32))
    assert len(rates_of(model)) == 16
    assert rates_of(model)[-1] == pytest.approx(0.32)
    assert rates_of(model)[0] == pytest.approx(0.02)


@pytest.mark.parametrize("built_with", [0.0, 0.5])
def test_timms_drop_path_is_set_whether_it_was_built_on_or_off(built_with: float) -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=12, num_heads=3, drop_path_rate=built_with
    )
    applied(model, DropPath(probability=0.2))
    found = [
        getattr(module, "drop_prob", getattr(module, "p", None))
        for names in find_branch_ends(model)
        for module in map(model.get_submodule, names)
    ]
    assert found == pytest.approx([0.1, 0.1, 0.2, 0.2])


def test_a_model_without_residual_branches_is_refused() -> None:
    with pytest.raises(ConfigError, match="the model has none"):
        applied(SmallCnn().build(SHAPE), DropPath())
