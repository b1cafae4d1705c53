"""Which parameters count as weights: those that decay, that a penalty acts on, that LAMB and LARS scale."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from dnntrain.choices.optim._param_groups import make_parameter_options
from dnntrain.nn.weight_selection import find_undecayed_names, is_weight

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
        ("height_rel", (13, 16), False),
        ("relu", (4, 4), True),
    ],
)
def test_names_are_compared_by_whole_words(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert is_weight(name, nn.Parameter(torch.zeros(shape))) is expected


@pytest.mark.sampled
@pytest.mark.parametrize(
    "name",
    [
        "swinv2_tiny_window8_256",
        "maxvit_rmlp_pico_rw_256",
        "gcvit_xxtiny",
        "twins_pcpvt_small",
        "coat_tiny",
        "tiny_vit_5m_224",
        "beit_base_patch16_224",
        "eva02_tiny_patch14_224",
        "hiera_tiny_224",
    ],
)
def test_weight_decay_leaves_out_the_parameters_that_a_model_of_timm_names(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    options = make_parameter_options(model, 0.1)
    named = options.keys() & model.no_weight_decay()
    assert named
    assert {key for key in named if options[key].weight_decay} == set()


def test_embeddings_do_not_decay_unless_they_are_a_layer_too() -> None:
    network = nn.Module()
    network.tokens, network.kinds, network.head = nn.Embedding(5, 4), nn.EmbeddingBag(3, 4), nn.Linear(4, 5)
    decays = {name: options.weight_decay for name, options in make_parameter_options(network, 0.1).items()}
    assert decays == {"tokens.weight": 0, "kinds.weight": 0, "head.weight": 0.1, "head.bias": 0}
    network.head.weight = network.tokens.weight
    assert make_parameter_options(network, 0.1)["tokens.weight"].weight_decay == 0.1


def test_the_networks_of_position_biases_do_not_decay() -> None:
    """torchvision's models have no list of their own."""
    with torch.device("meta"):
        model = torchvision.models.get_model("swin_v2_t")
    options = make_parameter_options(model, 0.1)
    networks = {name for name in options if ".cpb_mlp." in name}
    assert networks
    assert all(options[name].weight_decay == 0 for name in networks)
    assert options["features.1.0.mlp.0.weight"].weight_decay == 0.1
    assert networks <= find_undecayed_names(model)
