"""Schedule-free AdamW is the algorithm of its paper; the average is what is evaluated, and evaluating changes no bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from optimizing import decays, give_gradients, network, optimize
from safetensors.torch import load_file
from short_runs import comparable, result, trained
from stand_ins import built, context
from torch import Tensor, nn

from dnntrain.checkpoint.read_checkpoint import read_checkpoint, read_newest_checkpoint
from dnntrain.choices.optim.schedule_free import AverageWeights, ScheduleFree, ScheduleFreeAdamW
from dnntrain.errors import ConfigError

#: A warm-up, a plateau, a fall: rates of seven steps.
RATES = (0.0, 0.005, 0.01, 0.02, 0.02, 0.01, 0.005)


def optimized(choice: ScheduleFree, rates: tuple[float, ...] = RATES) -> tuple[nn.Module, ScheduleFreeAdamW]:
    model = network()
    (optimizer,) = choice.build(model)
    assert isinstance(optimizer, ScheduleFreeAdamW)
    for number, rate in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        give_gradients(model, number)
        optimizer.step()
    return model, optimizer


def view_of(model: nn.Module, optimizer: ScheduleFreeAdamW) -> AverageWeights:
    view = ScheduleFree().build_hooks(context()).eval_weights[0]
    assert isinstance(view, AverageWeights)
    view.bind(built(model, (optimizer,)))
    return view


def algorithm(beta1: float, decay: float, scale: float = 1.0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(x, y) of algorithm 1 of the paper with AdamW's scaling, in float64, x kept as it is there."""
    model = network()
    z = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    x, y = dict(z), dict(z)
    second: dict[str, Any] = dict.fromkeys(z, 0.0)
    weights = largest = 0.0
    for number, rate in enumerate(RATES):
        give_gradients(model, number)
        largest = max(largest, rate)
        weights += largest**2
        share = largest**2 / weights if weights else 0.0
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            gradient = parameter.grad.double()
            second[name] = 0.9 * second[name] + 0.1 * gradient**2
            step = gradient / ((second[name] / (1 - 0.9 ** (number + 1))).sqrt() + 1e-6)
            step = step + (decay * y[name] if decays(name) else 0)
            z[name] = z[name] - rate * scale * step
            x[name] = (1 - share) * x[name] + share * z[name]
            y[name] = (1 - beta1) * z[name] + beta1 * x[name]
    return x, y


@pytest.mark.parametrize("beta1", [0.9, 0.5])
def test_training_and_evaluated_weights_are_those_of_the_paper(beta1: float) -> None:
    x, y = algorithm(beta1, 0.1)
    model, optimizer = optimized(ScheduleFree(beta1=beta1, beta2=0.9, eps=1e-6, weight_decay=0.1))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), y[name], rtol=1e-5, atol=1e-6)
    with view_of(model, optimizer).swap_in(model):
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach().double(), x[name], rtol=1e-5, atol=1e-6)


def test_groups_of_other_rates_have_the_same_average() -> None:
    x, _ = algorithm(0.9, 0.0, scale=0.5)
    model, optimizer = optimized(ScheduleFree(beta2=0.9, eps=1e-6, param_groups=("0.* lr_scale=0.5",)))
    with view_of(model, optimizer).swap_in(model):
        torch.testing.assert_close(
            model.get_parameter("0.weight").detach().double(), x["0.weight"], rtol=1e-5, atol=1e-6
        )


def test_steps_are_those_of_the_package_of_the_authors() -> None:
    schedulefree = pytest.importorskip("schedulefree")
    theirs = network()
    decayed = [parameter for name, parameter in theirs.named_parameters() if decays(name)]
    plain = [parameter for name, parameter in theirs.named_parameters() if not decays(name)]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    reference = schedulefree.AdamWScheduleFree(groups, lr=0.01, betas=(0.9, 0.99))
    reference.train()
    ours = network()
    optimizers = ScheduleFree(lr=0.01, beta2=0.99, weight_decay=0.1).build(ours)
    optimize(theirs, (reference,), 8)
    optimize(ours, optimizers, 8)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_evaluating_changes_no_bit_of_what_is_trained() -> None:
    model, optimizer = optimized(ScheduleFree())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with view_of(model, optimizer).swap_in(model):
        assert any(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_before_the_first_step_the_average_is_the_model() -> None:
    model = network()
    (optimizer,) = ScheduleFree().build(model)
    assert isinstance(optimizer, ScheduleFreeAdamW)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with view_of(model, optimizer).swap_in(model):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


@pytest.mark.slow
def test_a_resumed_run_is_the_run_that_went_on_however_often_either_evaluates(tmp_path: Path) -> None:
    from dnntrain.cli.main import main

    common = ("optim=schedule_free", "sched=constant", "sched.warmup=5step", "eval.weights=last")
    trained(tmp_path / "long", *common, "train.duration=20step", "eval.every=20step")
    trained(tmp_path / "short", *common, "train.duration=7step", "eval.every=2step")
    assert main(["resume", str(tmp_path / "short"), "train.duration=20step", "--quiet"]) == 0
    assert result(tmp_path / "short")["digest"] == result(tmp_path / "long")["digest"]
    last = [[row for row in comparable(tmp_path / run) if row["split"] == "test"] for run in ("short", "long")]
    assert last[0] == last[1] != []


@pytest.mark.slow
def test_a_checkpoint_holds_what_is_trained_and_the_exported_model_the_average(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained(
        run, "optim=schedule_free", "optim.beta1=0.9", "train.duration=20step", "eval.weights=last", "precision=fp32"
    )
    state = read_newest_checkpoint(run / "checkpoints", warn=print)
    assert state is not None
    exported = load_file(run / "model.safetensors")
    (steps,) = state.states["optimizer"].values()
    for name, y in state.states["model"].items():
        x = (y.double() - 0.1 * steps[name]["z"].double()) / 0.9
        torch.testing.assert_close(exported[name].double(), x, rtol=1e-5, atol=1e-7)
        assert not torch.equal(exported[name], y)


@pytest.mark.slow
def test_the_best_weights_are_the_average_of_their_own_step(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("optim=schedule_free", "optim.lr=0.3", "train.max_examples=64", "eval.metric=loss", "eval.every=2step")
    trained(run, *words, "train.duration=24step", "precision=fp32")
    best, last = ((run / "checkpoints" / name).read_text().strip() for name in ("BEST", "LAST"))
    assert best != last
    state = read_checkpoint(run / "checkpoints" / best)
    exported = load_file(run / "model.safetensors")
    (steps,) = state.states["optimizer"].values()
    for name, y in state.states["model"].items():
        x = (y.double() - 0.1 * steps[name]["z"].double()) / 0.9
        torch.testing.assert_close(exported[name].double(), x, rtol=1e-5, atol=1e-6)


def test_decoupled_decay_of_the_average_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="would shrink the average"):
        ScheduleFree(weight_decay=0.05, decoupled_weight_decay=True)


def test_a_second_method_that_replaces_the_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"optim=schedule_free and average\.ema both give the weights that are evaluated"
    ):
        trained(tmp_path / "run", "optim=schedule_free", "reg=[]", "average=[ema]")
