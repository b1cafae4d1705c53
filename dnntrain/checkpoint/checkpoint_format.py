"""The format of a checkpoint, which its writer and its readers share.

A checkpoint is a folder `step-N` of safetensors files, one for each rank that has tensors to write,
and a `manifest.json`, which is written last. The manifest holds the schema version; an index of all
tensors by name with their shapes and chunks, independent of the layout; the plain values; the
SHA-256 of each file; the digests of configuration and data. The folder is written beside its final
place, synced to disk and renamed; then the pointer LAST is replaced. No pickle is written or read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dnntrain.checkpoint.digests import compute_bytes_digest
from dnntrain.utils.json_files import to_strict_json

SCHEMA_VERSION = 3


TENSOR_KEY = "$tensor"


@dataclass(frozen=True)
class Digests:
    """The digests of the configuration and the data that a checkpoint belongs to."""

    config: str
    data: str


@dataclass(frozen=True)
class Chunk:
    """A shard of a tensor on this rank, its offset, and the full tensor's shape."""

    name: str
    tensor: Tensor
    offset: tuple[int, ...]
    shape: tuple[int, ...]


def make_chunk_key(name: str, offset: Sequence[int]) -> str:
    return f"{name}@{','.join(map(str, offset))}"


def compute_manifest_digest(manifest: Mapping[str, Any]) -> str:
    return compute_bytes_digest(json.dumps(to_strict_json(manifest), sort_keys=True).encode())


#: States that belong to a layout. Another layout ignores them; one that a checkpoint lacks starts
#: empty.
LAYOUT_STATES = frozenset({"powersgd"})
#: States that only some hardware needs. Other hardware ignores them; one that a checkpoint lacks starts
#: with its initial value.
HARDWARE_STATES = frozenset({"scaler"})
