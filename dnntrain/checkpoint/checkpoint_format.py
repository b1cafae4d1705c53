"""What the writer and the readers of a checkpoint share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dnntrain.checkpoint.digests import compute_bytes_digest
from dnntrain.utils.files import (
    to_strict_json,
)

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
