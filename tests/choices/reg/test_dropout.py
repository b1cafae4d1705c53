"""Dropout by pattern: whose rate is set, layers that get one, refusals that name what there is."""

from __future__ import annotations

import pytest
import torch
from stand_ins import context
from torch import nn

from dnntrain.choices.model.gpt import Gpt
from dnntrain.choices.model.mlp import Mlp
from dnntrain.choices.model.small_cnn import SmallCnn
from dnntrain.choices.model.torchvision import Torchvision
from dnntrain.choices.model.wide_resnet import WideResnet
from dnntrain.choices.reg.dropout import Dropout
from dnntrain.errors import ConfigError
from dnntrain.nn.shape import ModelShape

SHAPE = ModelShape(10, 1, 8, 8)


def applied(model: nn.Module, knobs: Dropout) -> nn.Module:
    (transform,) = knobs.build(context()).model_transforms
    return transform.apply(model)


@pytest.mark.parametrize("choice", [SmallCnn(), Mlp(hidden=(16, 16)), WideResnet()])
def test_every_dropout_of_a_built_in_model_is_set_and_drops(choice: SmallCnn | Mlp | WideResnet) -> None:
    model = applied(choice.build(SHAPE), Dropout(probability=0.4))
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.4}
    images = torch.randn(4, 1, 8, 8)
    model.train()
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.slow
def test_a_decoder_without_dropout_is_refused_and_one_with_it_drops() -> None:
    shape = ModelShape(11, 8, vocabulary=11, per_token=True)
    with pytest.raises(ConfigError, match=r"which has none\n.*set model\.dropout"):
        applied(Gpt(depth=2, embed_dim=8, num_heads=2).build(shape), Dropout(probability=0.5))
    model = applied(Gpt(depth=2, embed_dim=8, num_heads=2, dropout=0.1).build(shape), Dropout(probability=0.5))
    rates = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert len(rates) == 5
    assert set(rates.values()) == {0.5}
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    model.train()
    assert not torch.equal(model.embed_tokens(tokens), model.embed_tokens(tokens))


def test_a_pattern_chooses_among_the_modules_of_a_library() -> None:
    model = Torchvision(name="vgg11").build(ModelShape(10, 3, 32, 32))
    applied(model, Dropout(probability=0.3, modules="classifier.2"))
    assert (model.get_submodule("classifier.2").p, model.get_submodule("classifier.5").p) == (0.3, 0.5)


def test_attention_of_torch_is_a_dropout_too() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1)
    applied(model, Dropout(probability=0.3))
    assert model.self_attn.dropout == model.dropout1.p == 0.3


def test_a_layer_gets_a_dropout_of_its_inputs_and_its_parameters_keep_their_names() -> None:
    model = nn.Sequential(nn.Linear(400, 8), nn.ReLU(), nn.Linear(8, 4))
    names = list(model.state_dict())
    applied(model, Dropout(probability=0.5, before_modules="0"))
    assert list(model.state_dict()) == names
    inputs = torch.ones(1, 400)
    torch.nn.init.ones_(model[0].weight)
    torch.nn.init.zeros_(model[0].bias)
    kept = float(model[0](inputs)[0, 0].detach()) / 2  # what is not dropped counts 1 / (1 - rate) = 2
    assert kept == int(kept)
    assert 150 < kept < 250
    assert float(model.eval()[0](inputs)[0, 0].detach()) == 400


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        (Dropout(modules="nothing.*"), "reg.dropout.modules=nothing.*"),
        (Dropout(), "before_modules=2"),
        (Dropout(before_modules="nothing"), "reg.dropout.before_modules=nothing"),
        (Dropout(modules=None), "reg.dropout.modules=None"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused_with_what_there_is(knobs: Dropout, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        applied(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)), knobs)
    assert words in str(caught.value) + caught.value.hint
