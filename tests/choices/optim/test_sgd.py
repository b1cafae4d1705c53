"""SGD, with momentum in both forms."""

from __future__ import annotations

import pytest
import torch
from optimizing import Formula, assert_weights, by_hand, decays, network, optimize
from torch import Tensor

from dnntrain.choices.optim.sgd import Sgd
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_five_steps_are_the_formula(momentum: float, nesterov: bool) -> None:
    def formula(name: str) -> Formula:
        velocity = torch.zeros(())

        def step(t: int, weights: Tensor, gradient: Tensor) -> Tensor:
            nonlocal velocity
            gradient = gradient + (0.1 * weights if decays(name) else 0)
            velocity = momentum * velocity + gradient
            return weights - 0.01 * (gradient + momentum * velocity if nesterov else velocity)

        return step

    model = network()
    choice = Sgd(lr=0.01, momentum=momentum, nesterov=nesterov, weight_decay=0.1)
    optimize(model, choice.build(model), 5)
    assert_weights(model, by_hand(network(), 5, formula))


def test_nesterov_is_the_preset_of_sgd() -> None:
    assert decode_config(compose(["optim=nesterov"])).optim == Sgd(nesterov=True)


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(ValueError, match=r"momentum=0\.9"):
        Sgd(momentum=0.0, nesterov=True)
