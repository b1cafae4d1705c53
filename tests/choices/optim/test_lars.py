"""LARS is the formula of its paper."""

from __future__ import annotations

import pytest
import torch
from optimizing import Formula, assert_weights, by_hand, decays, network, optimize
from torch import Tensor

from dnntrain.choices.optim.lars import Lars


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("trust_clip", [False, True])
def test_five_steps_are_the_formula_of_the_paper(momentum: float, nesterov: bool, trust_clip: bool) -> None:
    def formula(name: str) -> Formula:
        velocity = torch.zeros(())

        def step(t: int, weights: Tensor, gradient: Tensor) -> Tensor:
            nonlocal velocity
            if decays(name):
                trust = 0.02 * weights.norm() / (gradient.norm() + 0.1 * weights.norm())
                trust = (trust / 0.5).clamp(max=1.0) if trust_clip else trust
                gradient = trust * (gradient + 0.1 * weights)
            velocity = momentum * velocity + gradient
            return weights - 0.5 * (gradient + momentum * velocity if nesterov else velocity)

        return step

    model = network()
    choice = Lars(
        lr=0.5, weight_decay=0.1, momentum=momentum, nesterov=nesterov, trust_coefficient=0.02, trust_clip=trust_clip
    )
    optimize(model, choice.build(model), 5)
    assert_weights(model, by_hand(network(), 5, formula))


def test_the_step_of_a_weight_does_not_depend_on_the_size_of_its_gradient_also_without_decay() -> None:
    one, hundred = network(), network()
    for model, factor in ((one, 1.0), (hundred, 100.0)):
        optimizer = Lars(lr=0.5, weight_decay=0.0).build(model)[0]
        model[4].weight.grad = factor * torch.ones_like(model[4].weight)
        optimizer.step()
    torch.testing.assert_close(one[4].weight, hundred[4].weight)


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(ValueError, match=r"momentum=0\.9"):
        Lars(momentum=0.0, nesterov=True)
