"""Which learning rate and decay each parameter has, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from optimizing import network
from torch import nn

from dnntrain.choices.model.resnet_cifar import ResnetCifar
from dnntrain.choices.model.torchvision import Torchvision
from dnntrain.choices.model.vit_tiny import VitTiny
from dnntrain.choices.model.wide_resnet import WideResnet
from dnntrain.choices.optim._param_groups import (
    GroupRule,
    compute_block_depths,
    compute_model_depths,
    make_param_groups,
    make_parameter_options,
)
from dnntrain.choices.optim.sgd import Sgd
from dnntrain.errors import ConfigError
from dnntrain.nn.cost import build_with_zero_weights
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import ModelChoice


def settings(
    model: nn.Module, *rules: str, no_weight_decay: tuple[str, ...] = (), layer_decay: float = 1.0
) -> dict[str, tuple[float, float]]:
    """{name: (lr_scale, weight decay)} with a weight decay of 0.1."""
    parsed = [GroupRule.parse(rule) for rule in rules]
    found = make_parameter_options(model, 0.1, no_weight_decay, parsed, layer_decay)
    return {name: (setting.lr_scale, setting.weight_decay) for name, setting in found.items()}


def test_weights_decay_and_vectors_do_not() -> None:
    assert settings(network()) == {
        "0.weight": (1.0, 0.1),
        "0.bias": (1.0, 0.0),
        "1.weight": (1.0, 0.0),
        "1.bias": (1.0, 0.0),
        "4.weight": (1.0, 0.1),
        "4.bias": (1.0, 0.0),
        "6.weight": (1.0, 0.1),
        "6.bias": (1.0, 0.0),
    }


def test_layer_decay_falls_by_block_from_the_last_and_a_norm_belongs_to_the_block_before_it() -> None:
    scales = {name: scale for name, (scale, _) in settings(network(), layer_decay=0.5).items()}
    assert scales == {
        "0.weight": 0.25,
        "0.bias": 0.25,
        "1.weight": 0.25,
        "1.bias": 0.25,
        "4.weight": 0.5,
        "4.bias": 0.5,
        "6.weight": 1.0,
        "6.bias": 1.0,
    }


def test_a_transformer_has_the_depths_of_beit_with_the_last_norm_in_the_last_block_as_in_timm() -> None:
    timm = pytest.importorskip("timm")
    from timm.models import group_parameters

    model = timm.create_model("vit_tiny_patch16_224", depth=3, num_classes=5)
    expected = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    assert compute_block_depths(model.named_parameters()) == expected
    assert expected["cls_token"] == 0
    assert expected["head.weight"] == 4


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["resnet18", "vgg11", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_depths_of_a_network_of_timm_are_timms(name: str) -> None:
    timm = pytest.importorskip("timm")
    from timm.models import group_parameters

    model = timm.create_model(name, num_classes=5)
    assert compute_model_depths(model) == group_parameters(model, model.group_matcher(coarse=False), reverse=True)


@pytest.mark.parametrize(("build", "blocks"), [(ResnetCifar(depth=56), 27), (WideResnet(depth=16), 6)])
def test_each_residual_block_of_our_own_networks_counts(build: ModelChoice, blocks: int) -> None:
    depths = compute_model_depths(build.build(ModelShape(10, 3, 32, 32)))
    assert sorted(set(depths.values())) == list(range(blocks + 2))  # the stem and the head besides
    assert depths["stages.0.0.conv1.weight"] == depths["stages.0.0.conv2.weight"] == 1
    assert depths["head.weight"] == blocks + 1


@pytest.mark.parametrize(
    ("name", "groups"),
    [("vit_b_16", 12 + 2), ("resnet50", 16 + 2), ("swin_t", 12 + 3 + 2), ("densenet121", 58 + 3 + 2)],
)
def test_blocks_of_torchvision_are_counted_one_by_one(name: str, groups: int) -> None:
    model = build_with_zero_weights(lambda: Torchvision(name=name).build(ModelShape(10, 3, 224, 224)))
    depths = compute_model_depths(model)
    assert max(depths.values()) + 1 == groups
    last_norm = {"vit_b_16": "encoder.ln.weight", "swin_t": "norm.weight", "densenet121": "features.norm5.weight"}
    assert depths[last_norm.get(name, "layer4.2.bn3.weight")] == groups - 2


def test_a_rate_of_zero_is_not_trained() -> None:
    choice = Sgd(param_groups=("0.* lr_scale=0", "6.bias lr_scale=0"))
    model = network()
    assert choice.list_fixed_parameters(model) == {"0.weight", "0.bias", "6.bias"}
    names = {name for group in choice.make_param_groups(model, None) for name, _ in group["params"]}
    assert names == {"1.weight", "1.bias", "4.weight", "4.bias", "6.weight"}


def test_blocks_of_our_own_transformer_are_counted_one_by_one() -> None:
    model = VitTiny().build(ModelShape(10, 1, 28, 28))
    depths = compute_block_depths(model.named_parameters())
    blocks = {int(name.split(".")[1]) for name in depths if name.startswith("blocks.")}
    for name, depth in depths.items():
        if name.startswith("blocks."):
            assert depth == int(name.split(".")[1]) + 1
    assert depths["head.weight"] == max(depths.values()) == max(blocks) + 2


def test_rules_by_pattern_multiply_the_rate_and_set_the_decay_the_later_one_winning() -> None:
    found = settings(
        network(), "* lr_scale=2", "6.* lr_scale=10 weight_decay=0.3", "6.bias weight_decay=0", layer_decay=0.5
    )
    assert found["0.weight"] == (0.25 * 2, 0.1)
    assert found["6.weight"] == (10.0, 0.3)
    assert found["6.bias"] == (10.0, 0.0)


def test_no_decay_takes_decay_from_weights_by_pattern() -> None:
    found = settings(network(), no_weight_decay=("4.*",))
    assert {name for name, (_, decay) in found.items() if decay} == {"0.weight", "6.weight"}


@pytest.mark.parametrize(
    ("rules", "no_weight_decay", "message"),
    [
        (
            ("6.weigth lr_scale=2",),
            (),
            "optim.param_groups: no parameter is called '6.weigth'; did you mean '6.weight'",
        ),
        (
            (),
            ("embedding.*",),
            "optim.no_weight_decay: no parameter is called 'embedding.*'; the parameters are 0.weight, 0.bias",
        ),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_name(
    rules: tuple[str, ...], no_weight_decay: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        settings(network(), *rules, no_weight_decay=no_weight_decay)
    assert message in str(refused.value)


def test_every_trainable_parameter_is_in_one_group_at_its_own_rate() -> None:
    model = network()
    model[1].weight.requires_grad_(False)
    groups = make_param_groups(model.named_parameters(), make_parameter_options(model, 0.1, layer_decay=0.5), lr=0.8)
    rates = {name: group["lr"] for group in groups for name, _ in group["params"]}
    assert rates == {
        "0.weight": 0.2,
        "0.bias": 0.2,
        "1.bias": 0.2,
        "4.weight": 0.4,
        "4.bias": 0.4,
        "6.weight": 0.8,
        "6.bias": 0.8,
    }
    assert sum(len(group["params"]) for group in groups) == len(rates)


def test_shards_of_different_meshes_and_plain_tensors_are_in_groups_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    known = make_parameter_options(model, 0.1)
    for layer, mesh in zip(model, ("data", "data", None), strict=True):
        if mesh:
            layer.weight.device_mesh = mesh
    groups = make_param_groups(model.named_parameters(), known, lr=1.0)
    assert [[name for name, _ in group["params"]] for group in groups] == [["0.weight", "1.weight"], ["2.weight"]]


def test_steps_of_a_group_are_its_share_of_the_plain_step() -> None:
    from dnntrain.choices.optim.sgd import Sgd

    plain, scaled = network(), network()
    for model, choice in (
        (plain, Sgd(lr=0.1, weight_decay=0.0)),
        (scaled, Sgd(lr=0.1, weight_decay=0.0, layer_decay=0.5)),
    ):
        before = model[0].weight.detach().clone()
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        choice.build(model)[0].step()
        step = 0.1 if model is plain else 0.025
        torch.testing.assert_close(model[0].weight.detach(), before - step)
