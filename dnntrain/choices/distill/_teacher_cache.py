"""Cache teacher outputs for each augmented input, in memory or on disk.

The key of an input is the digest of its bytes as the teacher sees it; this covers both the example
and its augmentation. If crops and mirroring produce an input again, in any epoch or run, its
outputs are read back exactly.

A folder holds `binding.json` (digests of teachers and data, and all else that the outputs depend
on) and shards. A shard is a safetensors file named by the digest of its contents, and is written
atomically.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnntrain.checkpoint.digests import compute_bytes_digest
from dnntrain.choices.distill._options import TeacherOptions
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.protocols import BuildContext
from dnntrain.utils.files import read_bytes, read_text, write_bytes
from dnntrain.utils.json_files import write_json

#: Bytes of the digest of an input: two of a billion inputs collide with probability 1e-21.
_DIGEST_BYTES = 16

#: Bytes of outputs in one block.
_BLOCK_BYTES = 32 * 2**20

_DIGESTS_KEY = "views"


def open_cache(
    options: TeacherOptions, context: BuildContext, shapes: Mapping[str, tuple[int, ...]], teachers: Sequence[str]
) -> TeacherCache | None:
    """Open the cache that `options` describe.

    Raises ConfigError if it belongs to another teacher, or cannot hold the training split.
    """
    if options.cache == "none":
        return None
    limit_bytes = int(options.cache_size_gb * 1e9)
    row_bytes = 4 * sum(int(np.prod(shape)) for shape in shapes.values())
    if row_bytes * context.train_examples > limit_bytes:
        needed_gb = row_bytes * context.train_examples / 1e9
        raise ConfigError(
            f"distill.cache={options.cache} needs {needed_gb:.2g} GB for one view of each of "
            f"{context.train_examples} examples, but distill.cache_size_gb={options.cache_size_gb:g} allows less",
            f"use distill.cache_size_gb={needed_gb * 1.1:.2g} or more, distill.cache=none, or a layer with fewer outputs",
        )
    if options.cache == "memory":
        return TeacherCache(shapes, limit_bytes)
    binding = {
        "format": 1,
        "teachers": list(teachers),
        "data": context.data_digest,
        "torch": torch.__version__,
        "device": _get_device_name(context.device),
        "threads": torch.get_num_threads(),
    }
    folder = get_default_folder(binding) if options.cache_dir is None else Path(options.cache_dir).expanduser()
    _check_binding(folder, binding)
    _check_writable(folder)
    return TeacherCache(shapes, limit_bytes, folder, binding)


def digest_images(inputs: Tensor) -> list[bytes]:
    """Return the digest of each input [n, …].

    The memory format does not matter.
    """
    rows = inputs.detach().contiguous().flatten(1).cpu().numpy()
    return [hashlib.blake2b(row.data, digest_size=_DIGEST_BYTES).digest() for row in rows]


def get_default_folder(binding: Mapping[str, Any]) -> Path:
    """Return the folder of a binding, under $XDG_CACHE_HOME or ~/.cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    text = json.dumps(binding, sort_keys=True)
    return base / "dnntrain" / "teachers" / hashlib.sha256(text.encode()).hexdigest()[:24]


class TeacherCache:
    """Rows of teacher outputs by input digest, in blocks.

    With a `folder`, blocks are written there, and rows are read back without loading whole blocks.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        limit_bytes: int,
        folder: Path | None = None,
        binding: Mapping[str, Any] | None = None,
    ) -> None:
        self._shapes = dict(shapes)
        self._row_bytes = max(4 * sum(int(np.prod(shape)) for shape in shapes.values()), 1)
        self._most = limit_bytes // self._row_bytes
        self._block_rows = max(_BLOCK_BYTES // self._row_bytes, 64)
        self._folder, self._binding = folder, binding
        self._opened = folder is None
        self._blocks: list[dict[str, Tensor]] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        self._open: list[bytes] = []

    def __len__(self) -> int:
        return len(self._places)

    def locate(self, digests: Sequence[bytes]) -> NDArray[np.int64]:
        """Return block and row of each input [n, 2], or -1 if it is unknown."""
        if not self._opened:
            self._read_blocks()
        places = [self._places.get(view, (-1, -1)) for view in digests]
        return np.array(places, np.int64).reshape(-1, 2)

    def read_rows(self, places: NDArray[np.int64], device: torch.device) -> dict[str, Tensor]:
        """Return the outputs at `places`, on `device`."""
        blocks = np.unique(places[:, 0])
        block_rows, rows = [], []
        for block in blocks:
            positions = np.flatnonzero(places[:, 0] == block)
            row = torch.from_numpy(places[positions, 1])
            block_rows.append({name: self._blocks[block][name].index_select(0, row) for name in self._shapes})
            rows.append(positions)
        if not block_rows:
            return {name: torch.empty(0, *shape, device=device) for name, shape in self._shapes.items()}
        order = torch.from_numpy(np.argsort(np.concatenate(rows)))
        return {name: torch.cat([outputs[name] for outputs in block_rows])[order].to(device) for name in self._shapes}

    def add(self, digests: Sequence[bytes], outputs: Mapping[str, Tensor]) -> None:
        """Store `outputs` [n, …] of `digests`, as many as the limit allows."""
        count = min(len(digests), self._most - len(self._places))
        on_host = {name: output[:count].cpu() for name, output in outputs.items()}
        start = 0
        while start < count:
            if not self._open:
                self._blocks.append(
                    {name: torch.empty(self._block_rows, *shape) for name, shape in self._shapes.items()}
                )
            num_rows = min(count - start, self._block_rows - len(self._open))
            offset = len(self._open)
            for name, rows in on_host.items():
                self._blocks[-1][name][offset : offset + num_rows] = rows[start : start + num_rows]
            for number, view in enumerate(digests[start : start + num_rows]):
                self._places[view] = (len(self._blocks) - 1, offset + number)
            self._open += digests[start : start + num_rows]
            start += num_rows
            if len(self._open) == self._block_rows:
                self.flush()

    def flush(self) -> None:
        """Close the open block: cut it to its length, and write it if there is a folder."""
        if not self._open:
            return
        block = {name: rows[: len(self._open)] for name, rows in self._blocks[-1].items()}
        self._blocks[-1] = block if self._folder is None else self._write_block(block)
        self._open = []

    def _write_block(self, block: dict[str, Tensor]) -> dict[str, Tensor]:
        from safetensors.torch import load_file, save

        assert self._folder is not None
        views = torch.frombuffer(bytearray(b"".join(self._open)), dtype=torch.uint8).view(-1, _DIGEST_BYTES)
        data = save({**{name: rows.contiguous() for name, rows in block.items()}, _DIGESTS_KEY: views})
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not (self._folder / "binding.json").exists():
                write_json(self._folder / "binding.json", dict(self._binding or {}))
            path = self._folder / f"{compute_bytes_digest(data)}.safetensors"
            write_bytes(path, data)
        except OSError as error:
            raise _make_unwritable_error(self._folder, error) from None
        tensors = load_file(path)
        return {name: tensors[name] for name in self._shapes}

    def _read_blocks(self) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self._opened = True
        assert self._folder is not None
        for path in sorted(self._folder.glob("*.safetensors")):
            hint = f"remove {path}; its outputs are then computed again"
            try:
                if compute_bytes_digest(read_bytes(path)) != path.stem:
                    raise CheckpointError(f"{path} of the teacher's cache is damaged", hint)
                tensors = load_file(path)
                views = tensors[_DIGESTS_KEY].numpy()
                block = {name: tensors[name] for name in self._shapes}
            except (OSError, SafetensorError, KeyError) as error:
                raise CheckpointError(f"{path} of the teacher's cache is damaged: {error}", hint) from None
            if len(self._places) + len(views) > self._most:
                return
            self._blocks.append(block)
            for row, view in enumerate(views):
                self._places[view.tobytes()] = (len(self._blocks) - 1, row)


def _check_binding(folder: Path, binding: Mapping[str, Any]) -> None:
    """Raise ConfigError if `folder` holds other files or other outputs."""
    if not folder.exists():
        return
    file = folder / "binding.json"
    try:
        stored_binding = json.loads(read_text(file))
    except (OSError, ValueError):
        stored_binding = None
    if not isinstance(stored_binding, dict):
        if not folder.is_dir() or any(folder.iterdir()):
            raise ConfigError(f"distill.cache_dir={folder} is not a teacher's cache", "name a new or an empty folder")
        return
    descriptions = {"teachers": "of another teacher, or of other outputs of it", "data": "for other data"}
    for key, value in binding.items():
        if stored_binding.get(key) != value:
            kind = descriptions.get(key, f"computed with {key} {stored_binding.get(key)}, not {value}")
            raise ConfigError(
                f"distill.cache_dir={folder} holds outputs {kind}",
                "name another folder, or leave cache_dir out: each teacher then gets its own folder",
            )


def _check_writable(folder: Path) -> None:
    """Raise ConfigError if a cache cannot be created in `folder`.

    `folder`, or its nearest existing parent, must accept a new file. An existing cache may be full,
    and is then only read.
    """
    if (folder / "binding.json").is_file():
        return
    try:
        nearest = next(candidate for candidate in (folder.absolute(), *folder.absolute().parents) if candidate.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise _make_unwritable_error(folder, error) from None


def _make_unwritable_error(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"distill.cache_dir={folder} cannot be written: {error.strerror or error}",
        "name another folder, or use distill.cache=memory",
    )


def _get_device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{device} {torch.backends.cpu.get_cpu_capability()}"
