"""Writing a checkpoint: every rank writes its chunks, the main rank the manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnntrain.checkpoint.checkpoint_folder import remove_leftovers
from dnntrain.checkpoint.checkpoint_format import (
    SCHEMA_VERSION,
    TENSOR_KEY,
    Chunk,
    Digests,
    compute_manifest_digest,
    make_chunk_key,
)
from dnntrain.checkpoint.gather import RankExchange
from dnntrain.errors import PluginError
from dnntrain.nn.safetensors_file import write_safetensors
from dnntrain.protocols import Stateful
from dnntrain.utils.dtensor import get_local_chunk
from dnntrain.utils.files import remove_path, sync_to_disk, write_text
from dnntrain.utils.json_files import write_json


def save_checkpoint(
    folder: Path | None, step: int, states: Mapping[str, Stateful], digests: Digests, ranks: RankExchange | None = None
) -> Path | None:
    """Write `folder/step-N` atomically, then LAST.

    All ranks must call it: each writes the chunks that it owns into its own file, and the main rank
    the manifest. If a rank cannot write, all ranks raise OSError (disk full …); the old checkpoints
    are intact. Only the main rank uses `folder` and shares it with the others; if it is None there,
    nothing is written.
    """
    return write_state(folder, step, collect_state(states), digests, ranks)


@dataclass(frozen=True)
class HostState:
    """A copy of all states in host memory: plain values, and the chunks of tensors that this rank holds."""

    values: Any
    chunks: Sequence[Chunk]


def collect_state(states: Mapping[str, Stateful]) -> HostState:
    """Copy all states to host memory; training may then change them. All ranks must call it."""
    return HostState(*_split_tensors({name: state.state_dict() for name, state in states.items()}))


def write_state(
    folder: Path | None, step: int, state: HostState, digests: Digests, ranks: RankExchange | None = None
) -> Path | None:
    """Write collected states, as `save_checkpoint` does."""
    ranks = ranks or RankExchange()
    values, chunks = state.values, state.chunks
    place = _run_on_all_ranks(ranks, lambda: _prepare_folder(folder, step))[0]
    if not place:
        return None
    temporary = Path(place)
    try:
        # If several ranks hold a chunk, the first of them writes it.
        chunks_by_rank = ranks.gather_json([[chunk.name, list(chunk.offset)] for chunk in chunks])
        earlier_keys = {make_chunk_key(*place) for others in chunks_by_rank[: ranks.rank] for place in others}
        rank_chunks = [chunk for chunk in chunks if make_chunk_key(chunk.name, chunk.offset) not in earlier_keys]
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
    remove_leftovers(folder)
    temporary.mkdir()
    return str(temporary)


def _write_chunks(folder: Path, rank: int, chunks: Sequence[Chunk]) -> dict[str, Any]:
    """Write a rank's chunks and return {"file", "facts", "chunks"}, or {} if there are none."""
    if not chunks and rank:
        return {}
    name = f"state-{rank}.safetensors"
    keys = [chunk.name if not any(chunk.offset) else make_chunk_key(chunk.name, chunk.offset) for chunk in chunks]
    path = folder / name
    digest = write_safetensors(path, {key: chunk.tensor for key, chunk in zip(keys, chunks, strict=True)})
    return {
        "file": name,
        "facts": {"sha256": digest, "bytes": path.stat().st_size},
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
    write_json(temporary / "manifest.json", {**manifest, "sha256": compute_manifest_digest(manifest)})
    if target.exists() or target.is_symlink():
        target.rename(folder / f".step-{step}.tmp-replaced")
    temporary.rename(target)
    remove_leftovers(folder)
    sync_to_disk(folder)
    write_text(folder / "LAST", target.name + "\n")


def _merge_values(values: Sequence[Any]) -> Any:
    """Merge the plain values of all ranks into one tree.

    Each pipeline stage has its own part. If two ranks have a value, the first one counts.
    """
    first = values[0]
    if not isinstance(first, dict) or TENSOR_KEY in first:
        return first
    keys = dict.fromkeys(key for value in values if isinstance(value, dict) for key in value)
    return {
        key: _merge_values([value[key] for value in values if isinstance(value, dict) and key in value]) for key in keys
    }


def _split_tensors(value: Any, path: str = "") -> tuple[Any, list[Chunk]]:
    """Split nested states into (plain values, chunks of tensors that this rank holds).

    Each tensor is replaced by `{"$tensor": name}`.
    """
    if isinstance(value, Tensor):
        tensor, offset = get_local_chunk(value)
        host_tensor = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        chunk = Chunk(path, host_tensor, offset, tuple(value.shape))
        return {TENSOR_KEY: path}, [chunk] if host_tensor.numel() or not value.numel() else []
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
