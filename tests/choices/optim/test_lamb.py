"""LAMB is the formula of its paper; its count of steps survives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from optimizing import Formula, assert_weights, by_hand, decays, network, optimize
from short_runs import result, trained
from stand_ins import built, context
from torch import Tensor

from dnntrain.choices.optim.lamb import Lamb


@pytest.mark.parametrize("trust_clip", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_five_steps_are_the_formula_of_the_paper(decay: float, trust_clip: bool) -> None:
    def formula(name: str) -> Formula:
        first = second = torch.zeros(())

        def step(t: int, weights: Tensor, gradient: Tensor) -> Tensor:
            nonlocal first, second
            first, second = 0.8 * first + 0.2 * gradient, 0.9 * second + 0.1 * gradient**2
            update = (first / (1 - 0.8**t)) / ((second / (1 - 0.9**t)).sqrt() + 1e-6)
            if not decays(name):
                return weights - 0.01 * update
            update = update + decay * weights
            trust = weights.norm() / update.norm()
            return weights - 0.01 * (trust.clamp(max=1.0) if trust_clip else trust) * update

        return step

    model = network()
    choice = Lamb(lr=0.01, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=decay, trust_clip=trust_clip)
    optimize(model, choice.build(model), 5)
    assert_weights(model, by_hand(network(), 5, formula))


def test_the_count_of_steps_is_restored_in_every_group() -> None:
    model, other = network(), network()
    optimizers, restored = Lamb().build(model), Lamb().build(other)
    optimize(model, optimizers, 4)
    counts, restored_counts = (Lamb().build_hooks(context()).state["lamb"] for _ in range(2))
    counts.bind(built(model, optimizers))  # type: ignore[attr-defined]
    restored_counts.bind(built(other, restored))  # type: ignore[attr-defined]
    restored_counts.load_state_dict(counts.state_dict())
    assert counts.state_dict() == {"steps": 4}
    assert [int(group["step"]) for group in restored[0].param_groups] == [4, 4]


@pytest.mark.slow
def test_a_resumed_run_is_the_run_that_went_on(tmp_path: Path) -> None:
    from dnntrain.cli.main import main

    common = ("optim=lamb", "sched=constant", "precision=fp32")
    trained(tmp_path / "long", *common, "train.duration=20step")
    trained(tmp_path / "short", *common, "train.duration=7step")
    assert main(["resume", str(tmp_path / "short"), "train.duration=20step", "--quiet"]) == 0
    assert result(tmp_path / "short")["digest"] == result(tmp_path / "long")["digest"]
