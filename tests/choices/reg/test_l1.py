"""The L1 term is the gradient of strength * Σ |w| over the weights that match."""

from __future__ import annotations

import pytest
import torch
from small_network import network, step
from stand_ins import context

from dnntrain.choices.reg.l1 import L1
from dnntrain.errors import ConfigError


@pytest.mark.parametrize(("where", "penalised"), [("*", {"0.weight", "4.weight", "5.weight"}), ("5.*", {"5.weight"})])
def test_the_step_is_that_of_the_loss_with_the_penalty(where: str, penalised: set[str]) -> None:
    model, reference = network(), network()
    step(model, L1(coefficient=0.3, parameters=where).build(context()), [torch.optim.SGD(model.parameters(), lr=0.1)])
    penalty = sum(0.3 * parameter.abs().sum() for name, parameter in reference.named_parameters() if name in penalised)
    penalty.backward()  # adds to the gradients that are there
    torch.optim.SGD(reference.parameters(), lr=0.1).step()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_weight_of_zero_is_left_there() -> None:
    model = network()
    with torch.no_grad():
        model[5].weight.zero_()
    model[5].weight.grad.zero_()
    step(model, L1(coefficient=0.3).build(context()), [torch.optim.SGD(model.parameters(), lr=0.1)])
    assert not model[5].weight.any()


def test_a_pattern_that_matches_no_weight_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"reg.l1.parameters=head.* matches no weight .*5.weight"):
        step(network(), L1(parameters="head.*").build(context()), [])
