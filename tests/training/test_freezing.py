"""Freezing: frozen tensors keep their bits, cost nothing, and are trained from the step that the run names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rank_pool import Pool
from safetensors.torch import load_file
from short_runs import broken_off, comparable, result, trained
from torch import nn

from dnntrain import plan
from dnntrain.errors import ConfigError
from dnntrain.nn.freezing import find_frozen_names, freeze_model, is_frozen

HEAD_ONLY = 'train.freeze=["*","!head.*"]'

#: A small network with batch normalization; ten steps with an evaluation and a checkpoint every two.
RUN = (
    "model=wide_resnet",
    "model.depth=10",
    "model.width_factor=1",
    "reg=[]",
    "train.max_examples=128",
    "train.duration=10step",
    "log.every=1step",
    "eval.every=2step",
    "checkpoint.every=2step",
    "checkpoint.keep_last=9",
    "eval.max_examples=40",
    "precision=fp32",
)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.stem(images)).mean((2, 3)))


def test_the_last_pattern_that_matches_decides() -> None:
    patterns = ("*", "!head.*", "head.bias")
    assert is_frozen("stem.weight", patterns)
    assert not is_frozen("head.weight", patterns)
    assert is_frozen("head.bias", patterns)
    assert not is_frozen("stem.weight", ("head.*",))


def test_a_frozen_network_keeps_its_statistics_and_needs_no_gradient() -> None:
    model = freeze_model(Network(), ("*", "!head.*")).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(torch.randn(4, 1, 6, 6)).sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == {
        "head.weight",
        "head.bias",
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_statistics_that_no_pattern_names_are_still_measured() -> None:
    model = freeze_model(Network(), ("*.weight",)).train()
    model(torch.randn(4, 1, 6, 6))
    assert model.norm.num_batches_tracked == 1


def test_a_pattern_that_names_nothing_is_reported_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"'!heda\.\*' matches no parameter.*did you mean '!head\.\*'") as caught:
        find_frozen_names(Network(), ("*", "!heda.*", "nrom.*"))
    assert "did you mean 'norm.*'" in str(caught.value)
    with pytest.raises(ConfigError, match="leaves nothing to train") as caught:
        find_frozen_names(Network(), ("*",))
    assert 'train.freeze=["*","!head.*"]' in str(caught.value)


def test_the_plan_counts_frozen_parameters_and_needs_less_memory() -> None:
    usual = plan(*RUN)
    frozen = plan(*RUN, HEAD_ONLY)
    later = plan(*RUN, HEAD_ONLY, "train.unfreeze_at=4step")
    assert frozen.model.parameters == usual.model.parameters
    assert frozen.model.trained == 64 * 10 + 10
    assert frozen.memory.optimizer < usual.memory.optimizer / 50
    assert frozen.memory.activations < usual.memory.activations / 2
    assert frozen.as_json()["flops_per_step"] < 0.4 * usual.as_json()["flops_per_step"]
    (text,) = [text for name, text in frozen.format_rows() if name == "freeze"]
    assert text.startswith("650 parameters trained")
    assert (later.memory.optimizer, later.memory.activations) == (usual.memory.optimizer, usual.memory.activations)
    assert any("until step 4" in text for name, text in later.format_rows() if name == "freeze")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("train.unfreeze_at=2ep",), "has no effect, because nothing is frozen"),
        ((HEAD_ONLY, "train.unfreeze_at=10step"), "must be within the 10 steps"),
        ((HEAD_ONLY, "train.unfreeze_at=10s"), "cannot be converted to steps"),
        ((HEAD_ONLY, "train.unfreeze_at=4step", "optim=schedule_free"), "does not support optim=schedule_free"),
        (('train.freeze=["*","!fc.*"]',), "'!fc.*' matches no parameter"),
    ],
)
def test_settings_without_effect_are_errors(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(*RUN, *overrides)
    assert message in str(caught.value)


@pytest.mark.slow
def test_frozen_tensors_are_the_same_bits_afterwards_and_have_no_optimizer_state(tmp_path: Path) -> None:
    trained(tmp_path / "first", *RUN)
    trained(tmp_path / "head", *RUN, HEAD_ONLY, f"init_from={tmp_path}/first", "average=[ema]", "eval.weights=last")
    before = load_file(tmp_path / "first" / "model.safetensors")
    after = load_file(tmp_path / "head" / "model.safetensors")
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"head.weight", "head.bias"}
    saved = load_file(tmp_path / "head" / "checkpoints" / "step-10" / "state-0.safetensors")
    kept = {name.split("/")[2] for name in saved if name.startswith("optimizer/")}
    assert kept == {"head.weight", "head.bias"}


@pytest.mark.slow
def test_a_run_that_unfreezes_is_resumed_bit_for_bit_before_at_and_after_that_step(tmp_path: Path) -> None:
    line = (*RUN, HEAD_ONLY, "train.unfreeze_at=4step", "average=[ema]")
    trained(tmp_path / "whole", *line)
    start = load_file(tmp_path / "whole" / "checkpoints" / "step-2" / "state-0.safetensors")
    boundary = load_file(tmp_path / "whole" / "checkpoints" / "step-4" / "state-0.safetensors")
    end = load_file(tmp_path / "whole" / "checkpoints" / "step-10" / "state-0.safetensors")
    assert torch.equal(start["model/stem.weight"], boundary["model/stem.weight"])
    assert torch.equal(start["model/norm.running_mean"], boundary["model/norm.running_mean"])
    assert not torch.equal(boundary["model/stem.weight"], end["model/stem.weight"])
    assert not torch.equal(boundary["model/norm.running_mean"], end["model/norm.running_mean"])
    for step in (2, 4, 6):
        again = tmp_path / f"from-{step}"
        broken_off(tmp_path / "whole", again, step)
        trained(again, *line)
        assert result(again)["digest"] == result(tmp_path / "whole")["digest"]
        assert comparable(again) == comparable(tmp_path / "whole")


#: Layers, not convolutions: every layout supports it, and no statistics depend on the ranks.
LAYERS = (
    "model=mlp",
    "model.hidden=[16,16,16]",
    "reg=[]",
    "train.max_examples=72",
    "train.duration=6step",
    "log.every=1step",
    "eval.every=3step",
    "eval.max_examples=40",
    "precision=fp32",
    "optim=sgd",
    "optim.lr=0.05",
    'train.freeze=["layers.1.*"]',
    "train.unfreeze_at=2step",
    "log.report=false",
)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp", "tp", "pp"])
def test_every_layout_trains_as_one_process(parallel: str, pool: Pool, tmp_path: Path) -> None:
    assert not pool.train(1, LAYERS, tmp_path / "one").error
    outcome = pool.train(2, [*LAYERS, f"parallel={parallel}"], tmp_path / "two")
    assert not outcome.error, outcome.error
    ours, theirs = ([row["loss"] for row in comparable(tmp_path / name) if "loss" in row] for name in ("two", "one"))
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.slow
def test_a_pipeline_with_a_stage_that_is_frozen_names_a_layout_that_works(pool: Pool, tmp_path: Path) -> None:
    line = [word for word in LAYERS if not word.startswith("train.freeze")]
    outcome = pool.train(2, [*line, HEAD_ONLY, "parallel=pp"], tmp_path / "run")
    assert outcome.exit_code == 2
    assert "use parallel=ddp" in outcome.error
