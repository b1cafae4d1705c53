"""Adam is the formula of its paper."""

from __future__ import annotations

import pytest
import torch
from optimizing import Formula, assert_weights, by_hand, decays, network, optimize
from torch import Tensor

from dnntrain.choices.optim.adam import Adam


@pytest.mark.parametrize("amsgrad", [False, True])
def test_five_steps_are_the_formula_of_the_paper(amsgrad: bool) -> None:
    def formula(name: str) -> Formula:
        first = second = largest = torch.zeros(())

        def step(t: int, weights: Tensor, gradient: Tensor) -> Tensor:
            nonlocal first, second, largest
            gradient = gradient + (0.1 * weights if decays(name) else 0)
            first, second = 0.8 * first + 0.2 * gradient, 0.9 * second + 0.1 * gradient**2
            largest = torch.maximum(largest, second) if amsgrad else second
            return weights - 0.01 * (first / (1 - 0.8**t)) / ((largest / (1 - 0.9**t)).sqrt() + 1e-6)

        return step

    model = network()
    optimizers = Adam(lr=0.01, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.1, amsgrad=amsgrad).build(model)
    optimize(model, optimizers, 5)
    assert_weights(model, by_hand(network(), 5, formula))
