"""Every built-in network, and some of torchvision and timm: half of each group is cut, and equals the masked network."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.nn.shape import ModelShape
from dnntrain.pruning.cut import make_cut
from dnntrain.pruning.trace import find_groups
from dnntrain.pruning.verify import make_random_copy, measure_difference
from dnntrain.pruning.widths import Widths

SHAPE = ModelShape(10, 3, 16, 16)

#: The kinds of layers whose outputs each network can lose, at least.
BUILT_IN = {
    "airbench": 1,
    "mlp": 1,
    "mobilenet_v3_small": 20,
    "resnet18": 8,
    "resnet_cifar": 3,
    "small_cnn": 1,
    "unet": 4,
    "vit_tiny": 8,
    "wide_resnet": 3,
}
SMALL = {
    "unet": ("model.width=8", "model.depth=2"),
    "vit_tiny": ("model.embed_dim=32", "model.depth=4", "model.num_heads=2"),
    "resnet_cifar": ("model.depth=8",),
    "wide_resnet": ("model.depth=10", "model.width_factor=1"),
}
TORCHVISION = {"resnet18": 12, "mobilenet_v2": 25, "shufflenet_v2_x0_5": 20, "squeezenet1_1": 10, "efficientnet_b0": 30}
TIMM = {"vit_tiny_patch16_224": 24, "convnext_atto": 12, "resnetv2_50": 30}


def check(model: nn.Module, size: int, least: int) -> None:
    groups = find_groups(model.eval(), torch.zeros(1, 3, size, size)).groups
    assert len(groups) >= least
    removed = {number: list(range(0, len(group) - 1, 2)) for number, group in enumerate(groups)}
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    assert measure_difference(make_random_copy(model), make_cut(model, removed, groups, Widths()), images) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_network_is_cut_as_it_is_masked(name: str) -> None:
    config = decode_config(compose([f"model={name}", *SMALL.get(name, ())]))
    check(config.model.build(SHAPE), 16, BUILT_IN[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_a_network_of_torchvision_is_cut_as_it_is_masked(name: str) -> None:
    check(torchvision.models.get_model(name, num_classes=10), 32, TORCHVISION[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_a_network_of_timm_is_cut_as_it_is_masked(name: str) -> None:
    import timm

    options = {"img_size": 32} if name.startswith("vit") else {}
    check(timm.create_model(name, num_classes=10, **options), 32, TIMM[name])
