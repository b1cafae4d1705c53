"""A damaged or hostile checkpoint is a CheckpointError that names the file."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dnntrain.checkpoint.checkpoint_folder import list_checkpoints, read_pointer
from dnntrain.checkpoint.checkpoint_format import Digests
from dnntrain.checkpoint.digests import compute_bytes_digest
from dnntrain.checkpoint.read_checkpoint import read_checkpoint, read_newest_checkpoint
from dnntrain.checkpoint.write_checkpoint import save_checkpoint
from dnntrain.errors import CheckpointError, PluginError
from dnntrain.nn.weights import load_weights


class State:
    """A state that holds `values`."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def state_dict(self) -> dict[str, Any]:
        return self.values

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.values = dict(state)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path, 3, {"model": State({"weight": torch.arange(4.0)})}, Digests("config", "data"))
    return tmp_path


def _make_safetensors(dtype: object, size_bytes: int) -> bytes:
    """A safetensors file with one tensor `weight` of four numbers of `dtype`."""
    header = json.dumps({"weight": {"dtype": dtype, "shape": [4], "data_offsets": [0, size_bytes]}}).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + b"\1" * size_bytes


@pytest.mark.parametrize("content", [b"step-" + b"9" * 5000, "step-٣".encode(), b"\xff\0", b"", b"../x", b"step-4"])
def test_a_damaged_pointer_is_passed_over(content: bytes, checkpoints: Path) -> None:
    (checkpoints / "LAST").write_bytes(content)
    assert read_pointer(checkpoints, "LAST") is None
    newest = read_newest_checkpoint(checkpoints, lambda text: None)
    assert newest is not None
    assert newest.step == 3


def test_folders_of_other_names_are_no_checkpoints(checkpoints: Path) -> None:
    for name in ("step-٣", "step-" + "9" * 200, "step-x", "step-"):
        (checkpoints / name).mkdir()
    assert [path.name for path in list_checkpoints(checkpoints)] == ["step-3"]


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, "{", '{"schema":' + "9" * 5000 + "}", b"\xff", "null", '{"a":' * 5000 + "1" + "}" * 5000, "[]"],
)
def test_a_damaged_manifest_is_named(content: str | bytes, checkpoints: Path) -> None:
    file = checkpoints / "step-3" / "manifest.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=r"manifest\.json is (damaged|not)"):
        read_checkpoint(checkpoints / "step-3")


@pytest.mark.parametrize(("dtype", "size_bytes"), [("F4", 2), ("F6_E2M3", 3), ("F8_E8M0", 4), ("X", 4), (3, 4)])
def test_tensors_of_unknown_numbers_are_named(dtype: object, size_bytes: int, checkpoints: Path) -> None:
    data = _make_safetensors(dtype, size_bytes)
    (checkpoints / "step-3" / "state-0.safetensors").write_bytes(data)
    file = checkpoints / "step-3" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["sha256"]
    manifest["files"]["state-0.safetensors"] = {"sha256": compute_bytes_digest(data), "bytes": len(data)}
    digest = compute_bytes_digest(json.dumps(manifest, sort_keys=True).encode())
    file.write_text(json.dumps({**manifest, "sha256": digest}))
    with pytest.raises(CheckpointError, match=r"state-0\.safetensors"):
        read_checkpoint(checkpoints / "step-3")


@pytest.mark.parametrize(("dtype", "size_bytes"), [("F4", 2), ("F6_E3M2", 3), ("C64", 32), ("I32", 16), ("X", 4)])
def test_weights_of_unknown_numbers_are_named(dtype: str, size_bytes: int, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(_make_safetensors(dtype, size_bytes))
    model = nn.BatchNorm1d(4, affine=True, track_running_stats=False)
    model.bias = None
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_weights(model, file, replace_head=False)


def test_a_state_that_is_not_data_is_an_error_of_its_method(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="state average/x is object; it must be a tensor"):
        save_checkpoint(tmp_path, 1, {"average": State({"x": object()})}, Digests("config", "data"))
