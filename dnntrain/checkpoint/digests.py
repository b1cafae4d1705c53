"""Compute the SHA-256 of bytes, and of weights by name and bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dnntrain.utils.files import open_file

if TYPE_CHECKING:
    from torch import Tensor, nn


def compute_weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers.

    It is equal if two runs are bitwise equal.
    """
    return compute_tensors_digest(model.state_dict())


def compute_tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names and bytes of `tensors`."""
    import torch  # here, because digests of files need no torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def compute_bytes_digest(data: bytes) -> str:
    """Return the SHA-256 of `data`, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def compute_file_digest(path: Path) -> str:
    """Return the SHA-256 of the file `path`, in hexadecimal."""
    with open_file(path, follow_links=True) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
