"""States that follow from the hardware: the loss scale of float16, and the place of an optimizer's count of steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from short_runs import trained
from torch import nn

from dnntrain.checkpoint.checkpoint_format import Digests
from dnntrain.checkpoint.read_checkpoint import Checkpoint, restore_states
from dnntrain.checkpoint.state_dicts import ModelState, OptimizerState, ScalerState
from dnntrain.choices.precision.auto import AutoPrecision
from dnntrain.errors import CheckpointError
from dnntrain.protocols import PrecisionPolicy

#: A policy of precision=auto on a GPU without bf16, as far as a CPU can compute it.
FLOAT16 = PrecisionPolicy("float16", True, "auto: T4 computes fp16, not bf16")
FLOAT32 = PrecisionPolicy(None, False, "auto: fp32")


def make_checkpoint(**states: Any) -> Checkpoint:
    return Checkpoint(Path("run/checkpoints/step-1"), 1, Digests("", ""), states)


def test_a_missing_loss_scale_begins_again_and_one_without_use_is_dropped() -> None:
    model, scaler = nn.Linear(2, 2), torch.amp.GradScaler("cpu", init_scale=8.0)
    weights = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
    restore_states(make_checkpoint(model=weights), {"model": ModelState(model), "scaler": ScalerState(scaler)})
    assert scaler.get_scale() == 8.0
    restore_states(make_checkpoint(model=weights, scaler={"scale": 2.0}), {"model": ModelState(model)})
    assert bool((model.weight == 1).all())


def test_other_states_must_agree() -> None:
    with pytest.raises(CheckpointError, match="it lacks the state of model; it has a state of other"):
        restore_states(make_checkpoint(other={}), {"model": ModelState(nn.Linear(2, 2))})


def test_restored_states_are_released() -> None:
    model = nn.Linear(2, 2)
    checkpoint = make_checkpoint(model=dict(model.state_dict()), scaler={"scale": 2.0})
    restore_states(checkpoint, {"model": ModelState(model)})
    assert checkpoint.states == {}


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(FLOAT16, FLOAT32), (FLOAT32, FLOAT16)], ids=["dropped", "begun"])
def test_a_run_with_auto_precision_is_resumed_on_other_hardware(
    before: PrecisionPolicy, after: PrecisionPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("model=mlp", "model.hidden=[16]", "train.max_examples=64", "precision=auto", "reg=[]")
    monkeypatch.setattr(AutoPrecision, "build", lambda self, hardware: before)
    trained(tmp_path / "run", *words, "train.duration=2step")
    monkeypatch.setattr(AutoPrecision, "build", lambda self, hardware: after)
    assert trained(tmp_path / "run", *words, "train.duration=4step")["status"] == "done"
    assert "loss scale" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize("fused", [False, True])
def test_the_count_of_steps_stays_where_torch_keeps_it(fused: bool) -> None:
    def build(device: str) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Linear(2, 2, device=device)
        named = {"params": list(model.parameters()), "param_names": ["weight", "bias"]}
        return model, torch.optim.AdamW([named], fused=fused if device == "cpu" else None)

    model, optimizer = build("cpu")
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    # A device that computes nothing stands in for a GPU.
    other, restored = build("meta")
    restored.param_groups[0]["fused"] = fused
    OptimizerState([restored]).load_state_dict(OptimizerState([optimizer]).state_dict())
    state = restored.state[next(other.parameters())]
    assert state["step"].device.type == ("meta" if fused else "cpu")
    assert state["exp_avg"].device.type == "meta"
    if not fused:
        assert state["step"] is not optimizer.state[next(model.parameters())]["step"]
