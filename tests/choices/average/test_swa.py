"""SWA: the mean of the weights, only over the tail; statistics of batch norm recomputed; state exact."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from short_runs import comparable, result
from stand_ins import built, context
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn
from warm_process import WarmProcess, run_warm

from dnntrain.choices.average.swa import Swa
from dnntrain.errors import ConfigError
from dnntrain.protocols import Batch, Hooks, StepInfo, TrainerHandles
from dnntrain.training.evaluator import swap_in_eval_weights
from dnntrain.utils.units import Duration


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def batches(count: int = 5) -> list[Batch]:
    torch.manual_seed(5)
    return [Batch(torch.randn(8, 4), torch.zeros(8), np.arange(8), np.arange(8)) for _ in range(count)]


def parts_of(knobs: Swa, model: nn.Module, total_steps: int = 20) -> Hooks:
    parts = Hooks.merge([knobs.build(context(total_steps=total_steps, steps_per_epoch=2))])
    around: TrainerHandles = built(model, batches=batches())
    for holder in parts.after_step_hooks:
        holder.bind(around)  # type: ignore[attr-defined]
    return parts


def steps(model: nn.Module, parts: Hooks, first: int, last: int, total: int = 20) -> list[dict[str, torch.Tensor]]:
    """Random changes of the weights in the steps `first` to `last` - 1; returns the weights after each."""
    weights = []
    for step in range(first, last):
        torch.manual_seed(100 + step)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        for hook in parts.after_step_hooks:
            hook(StepInfo(step, step / 2, step / total))
        weights.append({name: parameter.detach().clone() for name, parameter in model.named_parameters()})
    return weights


def test_the_mean_of_the_weights_at_the_ends_of_the_last_epochs_is_evaluated_with_its_own_statistics() -> None:
    model = network()
    parts = parts_of(Swa(start_fraction=0.5), model)
    weights = steps(model, parts, 0, 20)
    live = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    taken = weights[11::2]  # after the steps 12, 14 … 20: half of the run is done at step 10
    reference = AveragedModel(network())
    for state in taken:
        source = network()
        source.load_state_dict({**source.state_dict(), **state})
        reference.update_parameters(source)
    update_bn([batch.inputs for batch in batches()], reference)
    with swap_in_eval_weights(parts.eval_weights, model):
        for name, tensor in reference.module.named_parameters():
            torch.testing.assert_close(model.get_parameter(name), tensor)
        torch.testing.assert_close(model[1].running_mean, reference.module[1].running_mean)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, live[name])


def test_before_the_tail_the_weights_as_they_are_are_evaluated() -> None:
    model = network()
    parts = parts_of(Swa(start_fraction=0.5), model)
    steps(model, parts, 0, 9)
    live = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with swap_in_eval_weights(parts.eval_weights, model):
        assert all(torch.equal(tensor, live[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("stop", [7, 13, 16])
def test_a_run_that_was_stopped_anywhere_averages_bitwise_the_same(stop: int) -> None:
    whole, first, second = network(), network(), network()
    parts = parts_of(Swa(start_fraction=0.5), whole)
    steps(whole, parts, 0, 20)
    before = parts_of(Swa(start_fraction=0.5), first)
    steps(first, before, 0, stop)
    with swap_in_eval_weights(before.eval_weights, first):
        pass
    after = parts_of(Swa(start_fraction=0.5), second)
    second.load_state_dict(first.state_dict())
    for name, state in after.state.items():
        state.load_state_dict(before.state[name].state_dict())
    steps(second, after, stop, 20)
    with swap_in_eval_weights(parts.eval_weights, whole), swap_in_eval_weights(after.eval_weights, second):
        for name, tensor in whole.state_dict().items():
            assert torch.equal(tensor, second.state_dict()[name])


def test_a_network_without_batch_norm_needs_no_pass() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    parts = parts_of(Swa(start_fraction=0.0, every=Duration(1, "step")), model)
    (first, second) = steps(model, parts, 0, 2)
    with swap_in_eval_weights(parts.eval_weights, model):
        torch.testing.assert_close(model[0].weight.detach(), (first["0.weight"] + second["0.weight"]) / 2)


@pytest.mark.parametrize(
    ("knobs", "total"),
    [(Swa(every=Duration(30, "step")), 20), (Swa(start_fraction=0.9, every=Duration(15, "step")), 20)],
)
def test_a_run_that_would_average_nothing_is_refused(knobs: Swa, total: int) -> None:
    with pytest.raises(ConfigError, match=r"average.swa.every=\d+step leaves no weights"):
        knobs.build(context(total_steps=total))


@pytest.mark.slow
def test_a_run_that_is_killed_and_goes_on_ends_bitwise_as_the_undisturbed_one(tmp_path: Path) -> None:
    words = ("model=resnet20", "model.width=4", "train.duration=60step", "train.batch_size=16", "train.max_examples=64")
    line = [
        *words,
        "reg=[]",
        "augment=[crop,flip,mixup]",
        "average=[swa]",
        "average.swa.start_fraction=0.3",
        "average.swa.precise_bn_batches=2",
        "checkpoint.every=5step",
        "eval.run_test=false",
    ]
    words = (*line, "log.report=false", "eval.every=10step", "log.every=5step", "--quiet")
    assert run_warm((*words, f"run_dir={tmp_path}/whole")).returncode == 0
    with WarmProcess((*words, f"run_dir={tmp_path}/run")) as process:
        while process.poll() is None and not (tmp_path / "run" / "checkpoints" / "step-35").exists():
            time.sleep(0.001)
        process.kill()
    assert run_warm((*words, f"run_dir={tmp_path}/run")).returncode == 0
    assert result(tmp_path / "run")["digest"] == result(tmp_path / "whole")["digest"]
    assert result(tmp_path / "run")["best"] == result(tmp_path / "whole")["best"]
    assert comparable(tmp_path / "run") == comparable(tmp_path / "whole")


@pytest.mark.parametrize("last", [21, 36])
def test_an_average_of_a_shorter_run_is_dropped_when_the_run_becomes_longer(last: int) -> None:
    """The tail of 20 steps begins at step 10, that of 40 at step 20."""
    model = network()
    short = parts_of(Swa(start_fraction=0.5, precise_bn_batches=0), model)
    steps(model, short, 0, 20)
    long = parts_of(Swa(start_fraction=0.5, precise_bn_batches=0), model, total_steps=40)
    long.state["swa"].load_state_dict(short.state["swa"].state_dict())
    weights = steps(model, long, 20, last, total=40)
    taken = weights[1::2]  # after the steps 22, 24 …; the one after step 20 is of the run's first half
    live = {name: tensor.clone() for name, tensor in model.named_parameters()}
    with swap_in_eval_weights(long.eval_weights, model):
        for name, tensor in model.named_parameters():
            expected = torch.stack([state[name] for state in taken]).mean(dim=0) if taken else live[name]
            torch.testing.assert_close(tensor.detach(), expected)
