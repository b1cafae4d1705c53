"""Read the complete state of a run, verified, and restore it.

`checkpoint_format.py` describes the files; `training/saved_states.py` lists the states in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from dnntrain.checkpoint.checkpoint_folder import get_step, list_checkpoints, read_pointer
from dnntrain.checkpoint.checkpoint_format import (
    HARDWARE_STATES,
    LAYOUT_STATES,
    SCHEMA_VERSION,
    TENSOR_KEY,
    Digests,
    compute_manifest_digest,
)
from dnntrain.checkpoint.digests import compute_bytes_digest
from dnntrain.errors import CheckpointError
from dnntrain.protocols import Stateful
from dnntrain.utils.explain_error import explain_lack_of_resources
from dnntrain.utils.files import read_bytes
from dnntrain.utils.json_files import parse_json
from dnntrain.utils.messages import say_once


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: nested states with tensors in place.

    `restore_states` takes the states out, so that they do not fill the memory of a whole run.
    """

    path: Path
    step: int
    digests: Digests
    states: dict[str, Any]

    def is_of_run(self, run: Path) -> bool:
        """Return whether the checkpoint is in the run directory `run`."""
        return self.path.parent.resolve() == (run / "checkpoints").resolve()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint folder.

    Raises CheckpointError naming the damaged file.
    """
    manifest = _read_manifest(path)
    if re.fullmatch(r"step-\d+", path.name) and path.name != f"step-{manifest['step']}":
        raise CheckpointError(f"{path} is damaged: its manifest.json is of step {manifest['step']}")
    files = {name: _read_verified_tensors(path, name, facts) for name, facts in manifest["files"].items()}
    tensors = {name: _assemble_tensor(path, name, index, files) for name, index in manifest["tensors"].items()}
    if extra := sum(map(len, files.values())) - sum(len(index["chunks"]) for index in manifest["tensors"].values()):
        raise CheckpointError(f"{path}: {extra} tensors in the files are not in the manifest")
    digests = Digests(manifest["config"], manifest["data"])
    return Checkpoint(path, manifest["step"], digests, _insert_tensors(manifest["values"], tensors))


def read_newest_checkpoint(folder: Path, warn: Callable[[str], None], max_step: int | None = None) -> Checkpoint | None:
    """Read the checkpoint of LAST, or the newest intact one if that is damaged.

    `warn` gets a message for each damaged checkpoint. With `max_step`, only checkpoints up to that
    step are read. Returns None if there is no checkpoint. Raises CheckpointError if all are
    damaged.
    """
    last = read_pointer(folder, "LAST")
    candidates = list_checkpoints(folder)
    if last is not None:
        candidates = [folder / last, *(path for path in candidates if path.name != last)]
    if max_step is not None:
        candidates = [path for path in candidates if get_step(path) <= max_step]
    faults = []
    for path in candidates:
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            faults.append(error.message)
            warn(f"checkpoint {path.name} is damaged and was skipped: {error.message}")
    if faults:
        raise CheckpointError(f"no checkpoint in {folder} is usable: {faults[0]}", "start again with resume=never")
    return None


def restore_states(checkpoint: Checkpoint, states: Mapping[str, Stateful]) -> None:
    """Load every state, in the order of `states`, and take it out of `checkpoint`.

    Raises CheckpointError if the names differ or a state does not fit.
    """
    note_other_loss_scale(checkpoint, states)
    saved_states = checkpoint.states
    missing = set(states) - set(saved_states) - LAYOUT_STATES - HARDWARE_STATES
    extra = set(saved_states) - set(states) - LAYOUT_STATES - HARDWARE_STATES
    if missing or extra:
        raise CheckpointError(
            f"{checkpoint.path}: "
            + "; ".join(
                [f"it lacks the state of {', '.join(sorted(missing))}"] * bool(missing)
                + [f"it has a state of {', '.join(sorted(extra))}, which this configuration does not use"] * bool(extra)
            ),
            "resume with the configuration it was saved with, or start again with resume=never",
        )
    for name, state in states.items():
        if name in HARDWARE_STATES and name not in saved_states:
            continue
        try:
            state.load_state_dict(saved_states.pop(name, {}))
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, IndexError, OverflowError) as error:
            if (known_error := explain_lack_of_resources(error)) is not None:
                raise known_error from error
            raise CheckpointError(f"{checkpoint.path}: the state of {name} does not fit: {error}") from error
    saved_states.clear()


def note_other_loss_scale(checkpoint: Checkpoint, states: Mapping[str, Stateful]) -> None:
    """Say that the number format has changed with the hardware, as precision=auto does, if it has."""
    was_scaled, is_scaled = "scaler" in checkpoint.states, "scaler" in states
    if was_scaled and not is_scaled:
        say_once("note: the steps so far were computed in float16; this hardware needs no loss scale, so it is dropped")
    if is_scaled and not was_scaled:
        say_once("note: the steps so far were not computed in float16; the loss scale begins with its initial value")


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    try:
        manifest = parse_json(read_bytes(file), object_pairs_hook=_reject_duplicate_keys)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{file} is damaged: {error}") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("schema"), int):
        raise CheckpointError(f"{file} is not a checkpoint manifest")
    if manifest["schema"] != SCHEMA_VERSION:
        raise CheckpointError(
            f"{file} has schema {manifest['schema']}; this dnntrain reads {SCHEMA_VERSION}", "update dnntrain"
        )
    stated_digest = manifest.pop("sha256", None)
    if stated_digest != compute_manifest_digest(manifest):
        raise CheckpointError(f"{file} is damaged: its SHA-256 does not match")
    field_types = {"step": int, "config": str, "data": str, "files": dict, "tensors": dict, "values": dict}
    for key, kind in field_types.items():
        if not isinstance(manifest.get(key), kind):
            raise CheckpointError(f"{file} is damaged: {key!r} is missing or has the wrong type")
    return manifest


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a key appears twice")
    return mapping


def _read_verified_tensors(folder: Path, name: str, facts: Any) -> dict[str, Tensor]:
    file = folder / name
    if name != file.name:
        raise CheckpointError(f"{file} must be a file in the checkpoint's folder")
    try:
        data = read_bytes(file)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None
    if (
        not isinstance(facts, dict)
        or len(data) != facts.get("bytes")
        or compute_bytes_digest(data) != facts.get("sha256")
    ):
        raise CheckpointError(f"{file} is damaged: its size or SHA-256 does not match the manifest")
    try:
        return load_tensors(data)
    except KeyError as error:  # a type of numbers that the library does not know, such as F4
        raise CheckpointError(f"{file} has tensors of the type {error}, which cannot be read") from None
    except (SafetensorError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{file} is not a safetensors file: {error}") from None


def _assemble_tensor(path: Path, name: str, index: Any, files: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
    """Assemble a tensor from its chunks.

    Raises CheckpointError if they do not fill it exactly.
    """
    try:
        chunks = [(files[chunk["file"]][chunk["key"]], tuple(chunk["offset"])) for chunk in index["chunks"]]
        shape, dtype = torch.Size(index["shape"]), index["dtype"]
        fits = chunks and all(
            str(tensor.dtype) == dtype
            and len(offset) == tensor.ndim == len(shape)
            and all(at >= 0 and at + size <= whole for at, size, whole in zip(offset, tensor.shape, shape, strict=True))
            for tensor, offset in chunks
        )
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{path}: the tensor {name!r} of the manifest is not in the files: {error}") from None
    if not fits or sum(tensor.numel() for tensor, _ in chunks) != shape.numel():
        raise CheckpointError(f"{path}: the chunks of the tensor {name!r} do not fill its shape {list(shape)}")
    if len(chunks) == 1:
        return chunks[0][0]
    whole = torch.empty(shape, dtype=chunks[0][0].dtype)
    for tensor, offset in chunks:
        whole[tuple(slice(at, at + size) for at, size in zip(offset, tensor.shape, strict=True))] = tensor
    return whole


def _insert_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {TENSOR_KEY}:
            name = value[TENSOR_KEY]
            if name not in tensors:
                raise CheckpointError(f"the manifest names a tensor {name!r} that is in none of the files")
            return tensors[name]
        return {key: _insert_tensors(item, tensors) for key, item in value.items()}
    return value
