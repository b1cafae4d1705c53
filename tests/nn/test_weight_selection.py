"""Which parameters count as weights: those that decay, that a penalty acts on, that LAMB and LARS scale."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from dnntrain.nn.weight_selection import is_weight

#: timm's models with tokens, tables of positions and biases of several dimensions.
TIMM_MODELS = (
    "deit_tiny_distilled_patch16_224",
    "swin_tiny_patch4_window7_224",
    "levit_128",
    "mvitv2_tiny",
    "crossvit_tiny_240",
    "vit_small_patch14_reg4_dinov2",
    "convnext_atto",
    "resnet18",
)


@pytest.mark.sampled
@pytest.mark.parametrize("name", TIMM_MODELS)
def test_weights_are_those_that_timm_decays(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    skipped = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    for parameter_name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and not parameter_name.endswith(".bias") and parameter_name not in skipped
        assert is_weight(parameter_name, parameter) is decays, parameter_name


@pytest.mark.parametrize(
    ("name", "vectors"),
    [
        ("vit_b_16", {"class_token", "encoder.pos_embedding"}),
        ("swin_t", {"relative_position_bias_table"}),
        ("convnext_tiny", {"layer_scale"}),
    ],
)
def test_tokens_positions_and_gains_of_torchvision_are_not_weights(name: str, vectors: set[str]) -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    named = dict(model.named_parameters())
    found = {key for key, parameter in named.items() if parameter.ndim > 1 and not is_weight(key, parameter)}
    assert found
    assert all(any(key.endswith(ending) for ending in vectors) for key in found)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("head.weight", (1, 64), True),
        ("head.weight", (1, 1), True),
        ("attn.in_proj_weight", (192, 64), True),
        ("mixer.kernel", (8, 8), True),
        ("norm.gamma", (1, 64, 1, 1), False),
        ("parametrizations.weight.original0", (64, 1), False),
        ("parametrizations.weight.original1", (64, 32), True),
        ("compose.matrix", (4, 4), True),
        ("tokenizer.weight", (100, 16), True),
        ("biased", (4, 4), True),
    ],
)
def test_names_are_compared_by_whole_words(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert is_weight(name, nn.Parameter(torch.zeros(shape))) is expected
