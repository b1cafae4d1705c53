"""Save and load the complete state of a run.

A checkpoint is a folder `step-N` of safetensors files, one for each rank that has tensors to write,
and a `manifest.json`, which is written last. The manifest holds the schema version; an index of all
tensors by name with their shapes and chunks, independent of the layout; the plain values; the
SHA-256 of each file; the digests of configuration and data. The folder is written beside its final
place, synced to disk and renamed; then the pointer LAST is replaced. No pickle is written or read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from dnntrain.checkpoint.digests import compute_bytes_digest
from dnntrain.checkpoint.gather import RankExchange
from dnntrain.errors import CheckpointError, PluginError
from dnntrain.protocols import Stateful
from dnntrain.utils.dtensor import get_local_chunk
from dnntrain.utils.explain_error import explain_lack_of_resources
from dnntrain.utils.files import (
    is_plain_folder,
    open_file,
    parse_json,
    read_bytes,
    remove_file,
    remove_path,
    sync_to_disk,
    to_strict_json,
    write_durably,
    write_json,
    write_text,
)

SCHEMA_VERSION = 3
_TENSOR_KEY = "$tensor"

#: The name of a checkpoint's folder, and room for it in a pointer.
_STEP_NAME = re.compile(r"step-[0-9]{1,18}")
_MAX_POINTER_BYTES = 64

#: States that belong to a layout. Another layout ignores them; one that a checkpoint lacks starts
#: empty.
LAYOUT_STATES = frozenset({"powersgd"})


@dataclass(frozen=True)
class Digests:
    """The digests of the configuration and the data that a checkpoint belongs to."""

    config: str
    data: str


def save_checkpoint(
    folder: Path | None, step: int, states: Mapping[str, Stateful], digests: Digests, ranks: RankExchange | None = None
) -> Path | None:
    """Write `folder/step-N` atomically, then LAST.

    All ranks must call it: each writes the chunks that it owns into its own file, and the main rank
    the manifest. If a rank cannot write, all ranks raise OSError (disk full …); the old checkpoints
    are intact. Only the main rank uses `folder` and shares it with the others; if it is None there,
    nothing is written.
    """
    ranks = ranks or RankExchange()
    values, chunks = _split_tensors({name: state.state_dict() for name, state in states.items()})
    place = _run_on_all_ranks(ranks, lambda: _prepare_folder(folder, step))[0]
    if not place:
        return None
    temporary = Path(place)
    try:
        # If several ranks hold a chunk, the first of them writes it.
        chunks_by_rank = ranks.gather_json([[chunk.name, list(chunk.offset)] for chunk in chunks])
        earlier_keys = {_make_chunk_key(*place) for others in chunks_by_rank[: ranks.rank] for place in others}
        rank_chunks = [chunk for chunk in chunks if _make_chunk_key(chunk.name, chunk.offset) not in earlier_keys]
        rank_files = _run_on_all_ranks(ranks, lambda: _write_chunks(temporary, ranks.rank, rank_chunks))
        rank_values = ranks.gather_json(values)
        _run_on_all_ranks(
            ranks,
            lambda: _finish_checkpoint(temporary, step, digests, rank_files, rank_values) if ranks.rank == 0 else None,
        )
    except BaseException:
        if ranks.rank == 0:
            remove_path(temporary, ignore_errors=True)
        raise
    return temporary.parent / f"step-{step}"


@dataclass(frozen=True)
class Chunk:
    """A shard of a tensor on this rank, its offset, and the full tensor's shape."""

    name: str
    tensor: Tensor
    offset: tuple[int, ...]
    shape: tuple[int, ...]


def _make_chunk_key(name: str, offset: Sequence[int]) -> str:
    return f"{name}@{','.join(map(str, offset))}"


def _run_on_all_ranks(ranks: RankExchange, work: Callable[[], Any]) -> list[Any]:
    """Run `work` on every rank and return all results.

    Raises OSError on every rank if one failed.
    """
    try:
        outcome: dict[str, Any] = {"done": work()}
    except OSError as error:
        outcome = {"failed": error.strerror or str(error), "errno": error.errno, "file": error.filename}
    outcomes = ranks.gather_json(outcome)
    for rank, rank_outcome in enumerate(outcomes):
        if "failed" in rank_outcome:
            suffix = f" (rank {rank})" if len(outcomes) > 1 else ""
            raise OSError(rank_outcome["errno"], f"{rank_outcome['failed']}{suffix}", rank_outcome["file"])
    return [rank_outcome["done"] for rank_outcome in outcomes]


def _prepare_folder(folder: Path | None, step: int) -> str:
    """Create the empty folder of a checkpoint on the main rank.

    Other ranks return an empty text.
    """
    if folder is None:
        return ""
    temporary = folder / f".step-{step}.tmp-{os.getpid()}"
    _remove_leftovers(folder)
    temporary.mkdir()
    return str(temporary)


def _write_chunks(folder: Path, rank: int, chunks: Sequence[Chunk]) -> dict[str, Any]:
    """Write a rank's chunks and return {"file", "facts", "chunks"}, or {} if there are none."""
    if not chunks and rank:
        return {}
    name = f"state-{rank}.safetensors"
    keys = [chunk.name if not any(chunk.offset) else _make_chunk_key(chunk.name, chunk.offset) for chunk in chunks]
    data = save_tensors({key: chunk.tensor for key, chunk in zip(keys, chunks, strict=True)})
    write_durably(folder / name, data)
    return {
        "file": name,
        "facts": {"sha256": compute_bytes_digest(data), "bytes": len(data)},
        "chunks": [
            [chunk.name, key, list(chunk.offset), list(chunk.shape), str(chunk.tensor.dtype)]
            for key, chunk in zip(keys, chunks, strict=True)
        ],
    }


def _finish_checkpoint(
    temporary: Path, step: int, digests: Digests, rank_files: Sequence[dict[str, Any]], values: Sequence[Any]
) -> None:
    """Write the manifest, rename the folder, and point LAST to it."""
    folder, target = temporary.parent, temporary.parent / f"step-{step}"
    tensors: dict[str, Any] = {}
    for rank_file in rank_files:
        for name, key, offset, shape, dtype in rank_file.get("chunks", ()):
            index = tensors.setdefault(name, {"shape": shape, "dtype": dtype, "chunks": []})
            index["chunks"].append({"file": rank_file["file"], "key": key, "offset": offset})
    manifest = {
        "schema": SCHEMA_VERSION,
        "step": step,
        "config": digests.config,
        "data": digests.data,
        "files": {rank_file["file"]: rank_file["facts"] for rank_file in rank_files if rank_file},
        "tensors": tensors,
        "values": _merge_values(values),
    }
    write_json(temporary / "manifest.json", {**manifest, "sha256": _compute_manifest_digest(manifest)})
    if target.exists() or target.is_symlink():
        target.rename(folder / f".step-{step}.tmp-replaced")
    temporary.rename(target)
    _remove_leftovers(folder)
    sync_to_disk(folder)
    write_text(folder / "LAST", target.name + "\n")


def _merge_values(values: Sequence[Any]) -> Any:
    """Merge the plain values of all ranks into one tree.

    Each pipeline stage has its own part. If two ranks have a value, the first one counts.
    """
    first = values[0]
    if not isinstance(first, dict) or _TENSOR_KEY in first:
        return first
    keys = dict.fromkeys(key for value in values if isinstance(value, dict) for key in value)
    return {
        key: _merge_values([value[key] for value in values if isinstance(value, dict) and key in value]) for key in keys
    }


def mark_best(folder: Path, step: int) -> None:
    """Point BEST to `step-N`."""
    write_text(folder / "BEST", f"step-{step}\n")


def prune_checkpoints(folder: Path, keep: int, keep_steps: Iterable[int] = ()) -> None:
    """Remove all but the `keep` newest checkpoints.

    The checkpoints of BEST and LAST are kept, and for each of `keep_steps` the newest one up to it.
    """
    checkpoints = list_checkpoints(folder)
    kept_names = {read_pointer(folder, "BEST"), read_pointer(folder, "LAST")}
    kept_names |= {next((path.name for path in checkpoints if get_step(path) <= step), None) for step in keep_steps}
    for path in checkpoints[keep:]:
        if path.name not in kept_names:
            remove_path(path, ignore_errors=True)


def remove_earlier_checkpoints(folder: Path, step: int) -> None:
    """Remove the checkpoints before `step`, and BEST if it points to one of them."""
    for path in list_checkpoints(folder):
        if get_step(path) < step:
            remove_path(path)
    if read_pointer(folder, "BEST") is None:
        remove_file(folder / "BEST")


def truncate_checkpoints(folder: Path, step: int) -> None:
    """Remove the checkpoints after `step`, the latest first, and point LAST to `step`."""
    for path in list_checkpoints(folder):
        if get_step(path) > step:
            remove_path(path)
    if read_pointer(folder, "BEST") is None:
        remove_file(folder / "BEST")
    write_text(folder / "LAST", f"step-{step}\n")


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints and pointers, and nothing else."""
    for name in ("LAST", "BEST"):
        remove_file(folder / name)
    _remove_leftovers(folder)
    for path in list_checkpoints(folder):
        remove_path(path)


def read_pointer(folder: Path, name: str) -> str | None:
    """Return the checkpoint named in BEST or LAST.

    Returns None if the file is missing or names no checkpoint in `folder`.
    """
    try:
        with open_file(folder / name) as file:
            text = file.read(_MAX_POINTER_BYTES).decode("ascii").strip()
    except (OSError, ValueError):
        return None
    return text if _STEP_NAME.fullmatch(text) and is_plain_folder(folder / text) else None


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, newest first."""
    folders = [path for path in folder.glob("step-*") if _STEP_NAME.fullmatch(path.name) and is_plain_folder(path)]
    return sorted(folders, key=get_step, reverse=True)


def get_step(path: Path) -> int:
    """Return the step of a checkpoint folder."""
    return int(path.name.removeprefix("step-"))


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: nested states with tensors in place."""

    path: Path
    step: int
    digests: Digests
    states: Mapping[str, Any]


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
    """Load every state, in the order of `states`.

    Raises CheckpointError if the names differ or a state does not fit.
    """
    layout_states = {name: checkpoint.states.get(name, {}) for name in LAYOUT_STATES & set(states)}
    saved_states = {
        **{name: state for name, state in checkpoint.states.items() if name not in LAYOUT_STATES},
        **layout_states,
    }
    missing, extra = set(states) - set(saved_states), set(saved_states) - set(states)
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
        try:
            state.load_state_dict(saved_states[name])
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, IndexError, OverflowError) as error:
            if (known_error := explain_lack_of_resources(error)) is not None:
                raise known_error from error
            raise CheckpointError(f"{checkpoint.path}: the state of {name} does not fit: {error}") from error


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
    if stated_digest != _compute_manifest_digest(manifest):
        raise CheckpointError(f"{file} is damaged: its SHA-256 does not match")
    field_types = {"step": int, "config": str, "data": str, "files": dict, "tensors": dict, "values": dict}
    for key, kind in field_types.items():
        if not isinstance(manifest.get(key), kind):
            raise CheckpointError(f"{file} is damaged: {key!r} is missing or has the wrong type")
    return manifest


def _compute_manifest_digest(manifest: Mapping[str, Any]) -> str:
    return compute_bytes_digest(json.dumps(to_strict_json(manifest), sort_keys=True).encode())


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


def _split_tensors(value: Any, path: str = "") -> tuple[Any, list[Chunk]]:
    """Split nested states into (plain values, chunks of tensors that this rank holds).

    Each tensor is replaced by `{"$tensor": name}`.
    """
    if isinstance(value, Tensor):
        tensor, offset = get_local_chunk(value)
        host_tensor = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        chunk = Chunk(path, host_tensor, offset, tuple(value.shape))
        return {_TENSOR_KEY: path}, [chunk] if host_tensor.numel() or not value.numel() else []
    if isinstance(value, Mapping):
        plain, chunks = {}, []
        for key, item in value.items():
            plain[str(key)], inner_chunks = _split_tensors(item, f"{path}/{key}" if path else str(key))
            chunks += inner_chunks
        return plain, chunks
    if value is None or isinstance(value, bool | int | float | str):
        return value, []
    raise PluginError(
        f"state {path} is {type(value).__name__}; it must be a tensor, a mapping or a JSON value",
        "correct the state_dict() of the method or the optimizer that keeps it",
    )


def _insert_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_TENSOR_KEY}:
            name = value[_TENSOR_KEY]
            if name not in tensors:
                raise CheckpointError(f"the manifest names a tensor {name!r} that is in none of the files")
            return tensors[name]
        return {key: _insert_tensors(item, tensors) for key, item in value.items()}
    return value


def _remove_leftovers(folder: Path) -> None:
    """Remove the leftovers of interrupted saves."""
    for path in folder.glob(".step-*.tmp-*"):
        remove_path(path, ignore_errors=True)
