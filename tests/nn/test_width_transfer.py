"""model.parametrization=mup: a step changes the outputs of a wide network as much as those of a narrow one."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import dnntrain
from dnntrain.choices.model.gpt import Gpt
from dnntrain.choices.optim.adamw import AdamW
from dnntrain.choices.optim.muon import Muon
from dnntrain.choices.optim.sgd import Sgd
from dnntrain.errors import ConfigError
from dnntrain.nn.decoder import Decoder
from dnntrain.nn.init import initialize_weights
from dnntrain.nn.shape import ModelShape

SHAPE = ModelShape(32, 16, vocabulary=32, per_token=True)
CHOICE = Gpt(embed_dim=32, depth=2, num_heads=4, parametrization="mup", base_dim=32)


def build(width: int, parametrization: str) -> Decoder:
    base = 32 if parametrization == "mup" else 64
    choice = dataclasses.replace(CHOICE, embed_dim=width, parametrization=parametrization, base_dim=base)
    model = choice.build(SHAPE)
    assert isinstance(model, Decoder)
    initialize_weights(model, 0)
    return model


def measure_change(width: int, parametrization: str, steps: int = 5) -> dict[str, float]:
    """Return how much a few steps change the features of the last block, and the logits: root mean squares."""
    model = build(width, parametrization)
    (optimizer,) = AdamW(lr=0.01, weight_decay=0.0).build(model)
    tokens = torch.randint(32, (8, 17), generator=torch.Generator().manual_seed(0))
    seen: dict[str, torch.Tensor] = {}
    model.blocks[-1].register_forward_hook(lambda module, inputs, output: seen.update(features=output.detach()))

    def read() -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return {"logits": model(tokens[:, :-1]), **seen}

    before = read()
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = read()
    return {name: float((after[name] - before[name]).square().mean().sqrt()) for name in before}


@pytest.mark.slow
def test_a_few_steps_change_each_coordinate_as_much_at_every_width() -> None:
    narrow, wide = measure_change(32, "mup"), measure_change(512, "mup")
    for name in narrow:
        assert 0.5 < wide[name] / narrow[name] < 2, (name, narrow, wide)
    standard = {width: measure_change(width, "standard") for width in (32, 512)}
    assert standard[512]["features"] / standard[32]["features"] > 2.5, standard


def test_both_parametrizations_agree_at_the_base_width_but_for_attention() -> None:
    base, standard = build(32, "mup"), build(32, "standard")
    for (name, tensor), other in zip(base.named_parameters(), standard.parameters(), strict=True):
        assert torch.equal(tensor, other), name
    assert set(base.get_rate_factors().values()) == {1.0}
    assert not standard.get_rate_factors()


def test_hidden_matrices_have_the_rates_and_deviations_of_their_width() -> None:
    model = build(128, "mup")
    options = AdamW().get_parameter_options(model)
    assert options["blocks.1.mlp.up.weight"].lr_scale == 0.25
    assert {options[name].lr_scale for name in ("embed.weight", "head.weight", "norm.weight")} == {1.0}
    assert float(model.blocks[0].attn.qkv.weight.detach().std()) == pytest.approx(0.02 / math.sqrt(4), rel=0.02)
    assert Muon().get_parameter_options(model)["blocks.1.mlp.up.weight"].lr_scale == 1.0
    with pytest.raises(ConfigError, match="optim=adamw"):
        Sgd().get_parameter_options(model)


def test_a_base_width_without_mup_is_an_error() -> None:
    with pytest.raises(ConfigError, match="use mup"):
        dnntrain.plan("task=language_model", "data=python_library", "model=gpt", "model.base_dim=32")
