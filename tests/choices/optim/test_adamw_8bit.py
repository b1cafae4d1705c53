"""AdamW in 8 bits: torchao's steps, near those of AdamW, with a state that a checkpoint takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from optimizing import give_gradients, optimize
from short_runs import result, trained
from torch import nn

from dnntrain.checkpoint.read_checkpoint import Digests, read_checkpoint, restore_states
from dnntrain.checkpoint.state_dicts import OptimizerState
from dnntrain.checkpoint.write_checkpoint import save_checkpoint
from dnntrain.choices.optim.adamw import AdamW
from dnntrain.choices.optim.adamw_8bit import AdamW8bit
from dnntrain.utils.hardware import probe_hardware


def network() -> nn.Sequential:
    """A convolution and a linear layer of more than 4,096 numbers, whose means are quantised, and one of fewer."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(16, 32, 3, bias=False), nn.Linear(64, 128), nn.Linear(8, 4)).to(
        memory_format=torch.channels_last  # type: ignore[call-overload]
    )


def test_the_plan_says_that_it_is_for_gpus() -> None:
    cpu, gpu = replace(probe_hardware("cpu"), device="cpu"), replace(probe_hardware("cpu"), device="cuda")
    assert "4 to 45 times as long" in AdamW8bit().notes(cpu)[0]
    assert AdamW8bit().notes(gpu) == ()


@pytest.mark.slow
def test_small_parameters_are_stepped_as_by_adamw_and_large_ones_nearly_so() -> None:
    ours, exact = network(), network()
    before = network()
    optimize(ours, AdamW8bit(lr=0.01, weight_decay=0.1).build(ours), 6)
    optimize(exact, AdamW(lr=0.01, weight_decay=0.1).build(exact), 6)
    for (name, a), b, first in zip(ours.named_parameters(), exact.parameters(), before.parameters(), strict=True):
        if a.numel() < 4096:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)
        else:
            assert not torch.equal(a, b)
            assert (a - b).norm() < 0.03 * (b - first).norm(), name


def test_steps_are_torchaos() -> None:
    from torchao.optim import AdamW8bit as Reference

    ours, theirs = network(), network().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    optimizers = AdamW8bit(lr=0.01, weight_decay=0.0).build(ours)
    reference = Reference(theirs.parameters(), lr=0.01, weight_decay=0.0)
    optimize(ours, optimizers, 5)
    with torch.compiler.set_stance("force_eager"):
        optimize(theirs, (reference,), 5)
    # The convolution's blocks are cut in the order of memory, which differs.
    for name in ("1.weight", "1.bias", "2.weight", "2.bias"):
        assert torch.equal(ours.get_parameter(name), theirs.get_parameter(name)), name


def test_a_large_mean_takes_one_byte_a_number_and_its_scales() -> None:
    model = network()
    (optimizer,) = AdamW8bit().build(model)
    optimize(model, (optimizer,), 1)
    names = {
        name: item
        for group in optimizer.param_groups
        for name, item in zip(group["param_names"], group["params"], strict=True)
    }
    state = optimizer.state[names["1.weight"]]
    assert {key: (str(value.dtype), value.numel()) for key, value in state.items() if "exp_avg_sq" in key} == {
        "exp_avg_sq_codes": ("torch.uint8", 8192),
        "exp_avg_sq_scale": ("torch.float32", 32),
        "exp_avg_sq_qmap": ("torch.float32", 256),
    }
    assert all(type(value) is torch.Tensor for value in state.values())


def test_steps_after_a_checkpoint_are_those_of_the_optimizer_that_went_on(tmp_path: Path) -> None:
    model, other = network(), network()
    optimizers = AdamW8bit().build(model)
    optimize(model, optimizers, 3)
    other.load_state_dict(model.state_dict())
    restored = AdamW8bit().build(other)
    saved = save_checkpoint(tmp_path, 3, {"optimizer": OptimizerState(optimizers)}, Digests("", ""))
    restore_states(read_checkpoint(saved), {"optimizer": OptimizerState(restored)})
    optimize(model, optimizers, 3, first=3)
    optimize(other, restored, 3, first=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_the_rate_of_a_group_may_be_set_as_a_number() -> None:
    model = network()
    (optimizer,) = AdamW8bit(weight_decay=0.0).build(model)
    before = model[2].weight.detach().clone()
    for group in optimizer.param_groups:
        group["lr"] = 0.25
    give_gradients(model, 0)
    optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.25] * len(optimizer.param_groups)
    torch.testing.assert_close((model[2].weight - before).abs(), torch.full_like(before, 0.25))


def test_it_is_refused_where_it_has_no_kernels() -> None:
    cpu = probe_hardware("cpu")
    assert AdamW8bit().find_hardware_refusal(cpu) is None
    refused = AdamW8bit().find_hardware_refusal(replace(cpu, device="mps"))
    assert refused is not None
    assert "not for mps" in refused[0]


@pytest.mark.slow
def test_a_resumed_run_is_the_run_that_went_on(tmp_path: Path) -> None:
    from dnntrain.cli.main import main

    common = ("optim=adamw_8bit", "sched=constant")
    trained(tmp_path / "long", *common, "train.duration=20step")
    trained(tmp_path / "short", *common, "train.duration=7step")
    assert main(["resume", str(tmp_path / "short"), "train.duration=20step", "--quiet"]) == 0
    assert result(tmp_path / "short")["digest"] == result(tmp_path / "long")["digest"]
