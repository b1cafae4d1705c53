"""RAdam is the formula of its paper: momentum alone while the second mean is not to be relied upon, then rectified Adam."""

from __future__ import annotations

import math

import pytest
import torch
from optimizing import Formula, assert_weights, by_hand, decays, network, optimize
from torch import Tensor

from dnntrain.choices.optim.radam import RAdam


@pytest.mark.parametrize("decoupled", [True, False])
def test_ten_steps_are_the_formula_of_the_paper(decoupled: bool) -> None:
    def formula(name: str) -> Formula:
        first = second = torch.zeros(())
        longest = 2 / (1 - 0.9) - 1

        def step(t: int, weights: Tensor, gradient: Tensor) -> Tensor:
            nonlocal first, second
            decay = 0.1 * weights if decays(name) else torch.zeros(())
            if decoupled:
                weights = weights - 0.01 * decay
            else:
                gradient = gradient + decay
            first, second = 0.8 * first + 0.2 * gradient, 0.9 * second + 0.1 * gradient**2
            unbiased = first / (1 - 0.8**t)
            length = longest - 2 * t * 0.9**t / (1 - 0.9**t)
            if length <= 5:  # the paper has 4; its authors' code, and torch's, 5
                return weights - 0.01 * unbiased
            rectified = math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
            return weights - 0.01 * rectified * unbiased * math.sqrt(1 - 0.9**t) / (second.sqrt() + 1e-6)

        return step

    model = network()
    choice = RAdam(lr=0.01, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.1, decoupled=decoupled)
    optimize(model, choice.build(model), 10)
    assert_weights(model, by_hand(network(), 10, formula))
