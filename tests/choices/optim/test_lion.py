"""Lion is the formula of its paper."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from optimizing import Formula, assert_weights, by_hand, decays, network, optimize
from torch import Tensor

from dnntrain.choices.optim.lion import Lion
from dnntrain.utils.hardware import probe_hardware


def test_five_steps_are_the_formula_of_the_paper() -> None:
    def formula(name: str) -> Formula:
        momentum = torch.zeros(())

        def step(t: int, weights: Tensor, gradient: Tensor) -> Tensor:
            nonlocal momentum
            direction = (0.9 * momentum + 0.1 * gradient).sign()
            momentum = 0.99 * momentum + 0.01 * gradient
            return weights - 0.01 * (direction + (0.1 * weights if decays(name) else 0))

        return step

    model = network()
    optimize(model, Lion(lr=0.01, weight_decay=0.1).build(model), 5)
    assert_weights(model, by_hand(network(), 5, formula))


def test_without_its_package_it_is_refused_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = probe_hardware("cpu")
    assert Lion().find_hardware_refusal(hardware) is None
    monkeypatch.setattr("dnntrain.choices.optim._base.find_spec", lambda name: None)
    assert Lion().find_hardware_refusal(hardware) == (
        "needs the package timm",
        "install it: pip install 'dnntrain[timm]'",
    )
    assert importlib.util.find_spec("timm") is not None
