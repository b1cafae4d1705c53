"""Decoupled weight decay is AdamW's, for any optimizer, and goes by layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_network import groups, network, step, with_gradients
from stand_ins import context
from torch import nn

from dnntrain.choices.optim._decoupled_decay import build_decoupled_decay, compute_layer_rates
from dnntrain.choices.optim.sgd import Sgd


def adamw(model: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups(model, weight_decay), lr=0.1)


def test_three_steps_are_those_of_adamw_with_its_own_decay() -> None:
    model, reference = network(), network()
    parts = build_decoupled_decay(0.2, 1.0, "*", context())
    ours, theirs = adamw(model, 0.0), adamw(reference, 0.2)
    for seed in range(3):
        torch.manual_seed(seed)
        with_gradients(model)
        torch.manual_seed(seed)
        with_gradients(reference)
        for optimizer in (ours, theirs):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (seed + 1)
        step(model, parts, [ours])
        theirs.step()
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_rate_falls_by_a_factor_from_layer_to_layer_towards_the_input() -> None:
    names = ["stem.weight", "block.conv.weight", "block.attention.a", "block.attention.b", "head.weight"]
    rates = compute_layer_rates(names, 0.8, 0.5)
    assert list(rates.values()) == pytest.approx([0.1, 0.2, 0.4, 0.4, 0.8])


def test_only_weights_that_match_decay() -> None:
    model = network()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.zero_()
    parts = build_decoupled_decay(0.5, 1.0, "[45].*", context())
    step(model, parts, [torch.optim.SGD(groups(model, 0.0), lr=0.1)])
    for name, parameter in model.named_parameters():
        factor = 0.95 if name in ("4.weight", "5.weight") else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_the_optimizer_itself_decays_nothing_then() -> None:
    options = Sgd(weight_decay=0.1, decoupled_weight_decay=True).get_parameter_options(network())
    assert {option.weight_decay for option in options.values()} == {0.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_decay": 0.0, "decoupled_weight_decay": True}, "no effect with weight_decay=0"),
        (
            {"decoupled_weight_decay": True, "no_weight_decay": ("head.*",)},
            "select weights with weight_decay_parameters",
        ),
        ({"decoupled_weight_decay": True, "param_groups": ("head.* weight_decay=0",)}, "use weight_decay_parameters"),
        ({"weight_decay_layer_factor": 0.9}, "no effect without decoupled_weight_decay=true"),
        ({"weight_decay_parameters": "head.*"}, "no effect without decoupled_weight_decay=true"),
    ],
)
def test_options_that_have_no_effect_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sgd(**options)
