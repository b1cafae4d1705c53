"""AdamW is the formula of its paper."""

from __future__ import annotations

import torch
from optimizing import Formula, assert_weights, by_hand, decays, network, optimize
from torch import Tensor

from dnntrain.choices.optim.adamw import AdamW


def test_five_steps_are_the_formula_of_the_paper() -> None:
    def formula(name: str) -> Formula:
        first = second = torch.zeros(())

        def step(t: int, weights: Tensor, gradient: Tensor) -> Tensor:
            nonlocal first, second
            first, second = 0.8 * first + 0.2 * gradient, 0.9 * second + 0.1 * gradient**2
            adapted = (first / (1 - 0.8**t)) / ((second / (1 - 0.9**t)).sqrt() + 1e-6)
            return weights - 0.01 * (adapted + (0.1 * weights if decays(name) else 0))

        return step

    model = network()
    optimize(model, AdamW(lr=0.01, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.1).build(model), 5)
    assert_weights(model, by_hand(network(), 5, formula))
