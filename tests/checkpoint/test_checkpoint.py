"""Checkpoints: what is saved comes back bit for bit; damage is found; a kill or a full disk leaves the old ones whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from dnntrain.checkpoint.checkpoint_folder import (
    list_checkpoints,
    mark_best,
    prune_checkpoints,
    read_pointer,
    remove_checkpoints,
    truncate_checkpoints,
)
from dnntrain.checkpoint.checkpoint_format import Digests, compute_manifest_digest
from dnntrain.checkpoint.digests import compute_bytes_digest
from dnntrain.checkpoint.read_checkpoint import read_checkpoint, read_newest_checkpoint, restore_states
from dnntrain.checkpoint.state_dicts import ModelState, OptimizerState, RandomState
from dnntrain.checkpoint.write_checkpoint import save_checkpoint
from dnntrain.errors import CheckpointError

DIGESTS = Digests("config", "data")


class Values:
    """A state of its own."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def state_dict(self) -> dict[str, Any]:
        return dict(self.values)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.values = dict(state)


def save(folder: Path, step: int, **values: Any) -> Path:
    return save_checkpoint(folder, step, {"own": Values(**values)}, DIGESTS)


def test_tensors_and_values_come_back_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        "float": torch.randn(3, 4),
        "half": torch.randn(5).bfloat16(),
        "scalar": torch.tensor(7),
        "view": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "empty": torch.empty(0),
    }
    values = {"x": 0.1 + 0.2, "n": None, "flag": True, "text": "é\n", "nested": {"t": torch.ones(2)}}
    path = save(tmp_path, 3, **tensors, **values)
    found = read_checkpoint(path)
    assert found.step == 3
    own = found.states["own"]
    for name, tensor in tensors.items():
        assert torch.equal(own[name], tensor)
        assert own[name].dtype == tensor.dtype
    assert {name: own[name] for name in ("x", "n", "flag", "text")} == {
        name: values[name] for name in ("x", "n", "flag", "text")
    }
    assert torch.equal(own["nested"]["t"], torch.ones(2))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: [torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True)],
        lambda p: [torch.optim.AdamW(p, lr=0.1, fused=True)],
    ],
)
def test_training_goes_on_bitwise_from_a_checkpoint(
    tmp_path: Path, make: Callable[[Any], list[torch.optim.Optimizer]]
) -> None:
    def build() -> tuple[torch.nn.Module, list[torch.optim.Optimizer], dict[str, Any]]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2)
        )
        optimizers = make(list(model.named_parameters()))
        return (
            model,
            optimizers,
            {"model": ModelState(model), "optimizer": OptimizerState(optimizers), "random": RandomState("cpu")},
        )

    def train(model: torch.nn.Module, optimizers: list[torch.optim.Optimizer], steps: range) -> None:
        for step in steps:
            inputs = torch.full((4, 4), float(step)) + torch.arange(4)[:, None]
            model(inputs).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

    model, optimizers, states = build()
    train(model, optimizers, range(5))
    path = save_checkpoint(tmp_path, 5, states, DIGESTS)
    train(model, optimizers, range(5, 9))
    other, other_optimizers, other_states = build()
    restore_states(read_checkpoint(path), other_states)
    train(other, other_optimizers, range(5, 9))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flip,
    "a truncation": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "a deletion": lambda path: path.unlink(),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another file in its place": lambda path: path.write_text("<html>not found</html>"),
    "bytes at the end": lambda path: path.write_bytes(path.read_bytes() + b"\x80\x04."),
}


@pytest.mark.parametrize("file", ["state-0.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_the_previous_good_one_is_used(tmp_path: Path, file: str, damage: str) -> None:
    save(tmp_path, 1, t=torch.ones(3))
    DAMAGES[damage](save(tmp_path, 2, t=torch.ones(3) * 2) / file)
    warnings: list[str] = []
    found = read_newest_checkpoint(tmp_path, warnings.append)
    assert found is not None
    assert found.step == 1
    assert "step-2" in warnings[0]


@pytest.mark.slow
def test_a_flipped_bit_anywhere_in_the_manifest_is_found(tmp_path: Path) -> None:
    path = save(tmp_path, 2, t=torch.ones(3), x=0.125) / "manifest.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 7)]) + whole[place + 1 :])
        if json_value(path) == json.loads(whole):
            continue  # white space became other white space
        with pytest.raises(CheckpointError):
            read_checkpoint(path.parent)


def json_value(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


def test_where_all_are_damaged_the_run_is_refused(tmp_path: Path) -> None:
    flip(save(tmp_path, 1, t=torch.ones(3)) / "state-0.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint") as caught:
        read_newest_checkpoint(tmp_path, lambda text: None)
    assert caught.value.exit_code == 5


def test_the_last_one_from_before_a_stated_step_is_kept_besides_the_newest(tmp_path: Path) -> None:
    for step in (0, 10, 20, 30, 40):
        save(tmp_path, step, x=step)
    prune_checkpoints(tmp_path, 1, keep_steps=(5, 25))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-40", "step-20", "step-0"]
    found = read_newest_checkpoint(tmp_path, lambda text: None, max_step=25)
    assert found is not None
    assert found.step == 20
    assert read_newest_checkpoint(tmp_path, lambda text: None, max_step=-1) is None


def test_later_checkpoints_are_removed_with_the_pointers_to_them(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save(tmp_path, step, x=step)
    mark_best(tmp_path, 15)
    truncate_checkpoints(tmp_path, 10)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-10", "step-5"]
    assert (read_pointer(tmp_path, "LAST"), (tmp_path / "BEST").exists()) == ("step-10", False)


@pytest.mark.parametrize("pointer", ["../../etc", "/etc/passwd", "step-99", "", "step-1/../step-1", "\x00"])
def test_a_pointer_that_leads_elsewhere_is_not_followed(tmp_path: Path, pointer: str) -> None:
    save(tmp_path, 1, x=1)
    (tmp_path / "LAST").write_text(pointer)
    found = read_newest_checkpoint(tmp_path, lambda text: None)
    assert found is not None
    assert found.path == tmp_path / "step-1"


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 99},
        {"schema": "1"},
        {"files": []},
        {"values": {"own": {"$tensor": "nowhere"}}},
        {"tensors": {}},
        {"files": {"../state-0.safetensors": {"sha256": "", "bytes": 0}}},
    ],
)
def test_a_manifest_that_is_not_one_of_ours_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = save(tmp_path, 1, t=torch.ones(2))
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["sha256"]
    changed = {**manifest, **change}
    (path / "manifest.json").write_text(json.dumps({**changed, "sha256": compute_manifest_digest(changed)}))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


def test_states_that_differ_from_those_saved_are_named(tmp_path: Path) -> None:
    saved = read_checkpoint(save(tmp_path, 1, x=1))
    with pytest.raises(CheckpointError, match="ema"):
        restore_states(saved, {"own": Values(), "ema": Values()})


def test_pruning_keeps_the_newest_and_never_the_best_less(tmp_path: Path) -> None:
    for step in range(1, 7):
        save(tmp_path, step, x=step)
        if step == 2:
            mark_best(tmp_path, 2)
        prune_checkpoints(tmp_path, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-6", "step-5", "step-2"]


@pytest.mark.parametrize("call", range(1, 9))
def test_a_disk_that_fills_up_at_any_write_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    save(tmp_path, 1, t=torch.ones(1000))
    count = 0
    real = os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == call:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    try:
        save(tmp_path, 2, t=torch.ones(1000) * 2)
        failed = False
    except OSError:
        failed = True
    monkeypatch.undo()
    found = read_newest_checkpoint(tmp_path, pytest.fail)
    assert found is not None
    assert torch.equal(found.states["own"]["t"], torch.ones(1000) * found.step)
    assert failed or found.step == 2
    assert not list(tmp_path.glob(".*tmp*"))


KILLED_SAVER = """
import sys, torch
from pathlib import Path
from dnntrain.checkpoint.checkpoint_folder import prune_checkpoints
from dnntrain.checkpoint.checkpoint_format import Digests
from dnntrain.checkpoint.write_checkpoint import save_checkpoint
class Own:
    def state_dict(self): return {"t": torch.full((200_000,), float(self.step)), "step": self.step}
    def load_state_dict(self, state): pass
own = Own()
own.step = 1
while True:
    save_checkpoint(Path(sys.argv[1]), own.step, {"own": own}, Digests("c", "d"))
    prune_checkpoints(Path(sys.argv[1]), 2)
    print(own.step, flush=True)
    own.step += 1
"""


@pytest.mark.slow
def test_a_process_killed_while_saving_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    for kill in range(3):
        process = subprocess.Popen([sys.executable, "-c", KILLED_SAVER, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(3 + kill):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = read_newest_checkpoint(tmp_path, pytest.fail)
        assert found is not None
        assert found.states["own"]["step"] == found.step
        assert found.states["own"]["t"][0] == found.step


def test_clearing_removes_checkpoints_and_no_other_file(tmp_path: Path) -> None:
    save(tmp_path, 1, x=1)
    (tmp_path / "mine.pt").write_text("")
    remove_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.pt"]


def test_a_manifest_cannot_name_a_file_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"")
    path = save(tmp_path, 1, x=1) / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    manifest["files"] = {"../outside": {"sha256": compute_bytes_digest(b""), "bytes": 0}}
    path.write_text(json.dumps({**manifest, "sha256": compute_manifest_digest(manifest)}))
    with pytest.raises(CheckpointError, match="must be a file in the checkpoint's folder"):
        read_checkpoint(path.parent)
