"""Decoupled weight decay is AdamW's, for any optimizer, and goes by layer."""

from __future__ import annotations

import pytest
import torch
from small_network import groups, network, step, with_gradients
from stand_ins import context
from torch import nn

from dnntrain.choices.reg.weight_decay import WeightDecay, compute_layer_rates
from dnntrain.errors import ConfigError


def adamw(model: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups(model, weight_decay), lr=0.1)


def test_three_steps_are_those_of_adamw_with_its_own_decay() -> None:
    model, reference = network(), network()
    parts = WeightDecay(rate=0.2).build(context())
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
    parts = WeightDecay(rate=0.5, where="[45].*").build(context())
    step(model, parts, [torch.optim.SGD(groups(model, 0.0), lr=0.1)])
    for name, parameter in model.named_parameters():
        factor = 0.95 if name in ("4.weight", "5.weight") else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_an_optimizer_that_decays_weights_itself_is_refused() -> None:
    model = network()
    with pytest.raises(ConfigError, match=r"reg.weight_decay and the optimizer both"):
        step(model, WeightDecay().build(context()), [adamw(model, 0.1)])
