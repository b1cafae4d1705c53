"""Every built-in network, and some of torchvision and timm: its cut by every criterion equals the masked network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import Column, ColumnKind
from dnntrain.pruning.criteria import ScoreInputs, score_units
from dnntrain.pruning.cut import make_cut
from dnntrain.pruning.selection import Rules, name_kinds, select_units
from dnntrain.pruning.trace import find_groups
from dnntrain.pruning.verify import make_random_copy, make_random_inputs, measure_difference
from dnntrain.pruning.widths import Widths
from dnntrain.utils.rng import Key

CONF = Path(__file__).resolve().parents[2] / "conf" / "model"
CRITERIA = ("random", "magnitude", "taylor", "fpgm", "bn_scale", "lamp", "obd")
IMAGES = ModelShape(10, 3, 16, 16)
TOKENS = ModelShape(20, 8, vocabulary=20, per_token=True)
TABLE = ModelShape(
    3,
    3,
    columns=(
        *(Column(name, ColumnKind.NUMBER) for name in ("age", "size")),
        Column("kind", ColumnKind.CATEGORY, ("a", "b")),
    ),
)

#: The shape of the inputs, the groups of channels that each network can lose, at least, and its options.
BUILT_IN: dict[str, tuple[ModelShape, int, tuple[str, ...]]] = {
    "airbench": (IMAGES, 1, ("model.widths=[8,16,16]",)),
    "gpt": (TOKENS, 4, ("model.embed_dim=16", "model.depth=2", "model.num_heads=4", "model.num_kv_heads=2")),
    "gpt_nano": (TOKENS, 12, ("model.embed_dim=24",)),
    "mlp": (IMAGES, 1, ()),
    "mlp of a table": (TABLE, 1, ()),
    "mobilenet_v3_small": (IMAGES, 20, ()),
    "resnet18": (IMAGES, 8, ("model.width=8",)),
    "resnet20": (IMAGES, 9, ()),
    "resnet_cifar": (IMAGES, 3, ("model.depth=8",)),
    "small_cnn": (IMAGES, 1, ()),
    "unet": (IMAGES, 4, ("model.width=8", "model.depth=2")),
    "vit_tiny": (IMAGES, 8, ("model.embed_dim=32", "model.depth=4", "model.num_heads=2")),
    "wide_resnet": (IMAGES, 3, ("model.depth=10", "model.width_factor=1")),
}
TORCHVISION = {"resnet18": 12, "mobilenet_v2": 25, "shufflenet_v2_x0_5": 20, "squeezenet1_1": 10, "efficientnet_b0": 30}
TIMM = {"vit_tiny_patch16_224": 24, "convnext_atto": 12, "resnetv2_50": 30}


def check(model: nn.Module, example: Tensor, least: int) -> None:
    """Cut half of each group by every criterion; the network is traced and its gradients are computed once."""
    groups = find_groups(model.eval(), example).groups
    assert len(groups) >= least
    trial, inputs = make_random_copy(model), make_random_inputs(example, 2)
    gradients = compute_gradients(trial, inputs)
    for criterion in CRITERIA:
        scores = score_units(criterion, groups, ScoreInputs(trial, lambda: [gradients], Key(0, "test")))
        removed = select_units(groups, scores, 0.5, Rules("local"), name_kinds(trial, groups))
        assert criterion == "bn_scale" or len(removed) == len(groups)
        assert measure_difference(trial, make_cut(trial, removed, groups, Widths()), inputs) < 1e-5, criterion


def compute_gradients(model: nn.Module, inputs: Tensor) -> Mapping[str, Tensor]:
    torch.autograd.backward(model(inputs).flatten(1).logsumexp(1).sum())
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_network_is_cut_as_it_is_masked(name: str) -> None:
    shape, least, options = BUILT_IN[name]
    config = decode_config(compose([f"model={name.split()[0]}", *options]))
    check(config.model.build(shape), shape.make_zeros(1), least)


def test_every_built_in_network_is_cut() -> None:
    # The last three differ from others in their size only; hf is a gpt from a folder.
    others = {"custom", "timm", "torchvision", "hf", "gpt_small", "resnet56", "wrn_16_2"}
    assert {name.split()[0] for name in BUILT_IN} == {file.stem for file in CONF.glob("*.yaml")} - others


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_a_network_of_torchvision_is_cut_as_it_is_masked(name: str) -> None:
    check(torchvision.models.get_model(name, num_classes=10), torch.zeros(1, 3, 32, 32), TORCHVISION[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_a_network_of_timm_is_cut_as_it_is_masked(name: str) -> None:
    import timm

    options = {"img_size": 32} if name.startswith("vit") else {}
    check(timm.create_model(name, num_classes=10, **options), torch.zeros(1, 3, 32, 32), TIMM[name])
