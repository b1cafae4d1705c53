"""Adafactor is the formula of its paper, also over convolution weights, with a state of rows and columns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from optimizing import Formula, assert_weights, by_hand, decays, network, optimize
from short_runs import result, trained
from torch import Tensor

from dnntrain.choices.optim.adafactor import Adafactor


def rms(tensor: Tensor) -> Tensor:
    return tensor.square().mean().sqrt()


@pytest.mark.parametrize("channels_last", [False, True])
def test_five_steps_are_the_formula_of_the_paper(channels_last: bool) -> None:
    def formula(name: str) -> Formula:
        rows = columns = means = torch.zeros(())

        def step(t: int, weights: Tensor, gradient: Tensor) -> Tensor:
            nonlocal rows, columns, means
            share = t**-0.8
            rate = max(1e-3, float(rms(weights))) * min(0.7, t**-0.5)
            if decays(name):
                weights = weights * (1 - 0.7 * 0.1)
            squares = gradient.flatten(1) ** 2 if gradient.ndim > 1 else gradient**2
            if gradient.ndim > 1:
                rows = (1 - share) * rows + share * squares.mean(1, keepdim=True)
                columns = (1 - share) * columns + share * squares.mean(0, keepdim=True)
                second = rows * columns / rows.mean()
            else:
                second = means = (1 - share) * means + share * squares
            update = gradient / second.sqrt().view_as(gradient)
            return weights - rate * update / max(1.0, float(rms(update)))

        return step

    model = network()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    choice = Adafactor(lr=0.7, weight_decay=0.1)
    optimize(model, choice.build(model), 5)
    assert_weights(model, by_hand(network(), 5, formula), rtol=1e-4, atol=1e-5)


def test_the_state_of_a_matrix_is_a_row_and_a_column() -> None:
    model = network()
    (optimizer,) = Adafactor().build(model)
    optimize(model, (optimizer,), 1)
    sizes = {
        name: sum(value.numel() for key, value in optimizer.state[parameter].items() if key != "step")
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }
    assert sizes["0.weight"] == 4 + 27
    assert sizes["4.weight"] == 8 + 144
    assert sizes["4.bias"] == 8


@pytest.mark.slow
def test_a_resumed_run_is_the_run_that_went_on(tmp_path: Path) -> None:
    from dnntrain.cli.main import main

    common = ("optim=adafactor", "sched=constant")
    trained(tmp_path / "long", *common, "train.duration=20step")
    trained(tmp_path / "short", *common, "train.duration=7step")
    assert main(["resume", str(tmp_path / "short"), "train.duration=20step", "--quiet"]) == 0
    assert result(tmp_path / "short")["digest"] == result(tmp_path / "long")["digest"]
