"""Write JSON objects with a checksum of their own values, and read them back.

The key `sha256` holds the SHA-256 of the rest of the object as JSON with sorted keys. A file that
grows has its checksum in such an object.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnntrain.errors import CheckpointError, FileKindError
from dnntrain.utils.files import open_file, read_bytes
from dnntrain.utils.json_files import parse_json, to_strict_json, write_json

SEAL = "sha256"

#: The key of result.json with the checksum of the finished metrics.jsonl.
METRICS_SEAL = "metrics_sha256"


def compute_json_digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value, written with sorted keys."""
    return hashlib.sha256(json.dumps(to_strict_json(value), sort_keys=True).encode()).hexdigest()


def seal_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object with the checksum of its values."""
    content = {key: item for key, item in value.items() if key != SEAL}
    return {**content, SEAL: compute_json_digest(content)}


def is_sealed(value: Mapping[str, Any]) -> bool:
    """Return whether the object has the checksum of its values."""
    return bool(value.get(SEAL) == seal_json(value)[SEAL])


def write_sealed_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write the object with the checksum of its values, atomically."""
    write_json(path, seal_json(value))


def read_sealed_json(path: Path, hint: str = "restore it from a copy") -> dict[str, Any]:
    """Return the object in a JSON file without its checksum; it is empty if there is no file.

    Raises CheckpointError, which names the file, if it is damaged.
    """
    try:
        value = parse_json(read_bytes(path))
    except FileNotFoundError:
        return {}
    except FileKindError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}", hint) from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}", hint) from None
    if not isinstance(value, dict) or not is_sealed(value):
        raise CheckpointError(f"{path} is damaged or was altered: its values do not match its SHA-256", hint)
    del value[SEAL]
    return value


def read_intact_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file without its checksum; it is empty if the file is missing or damaged."""
    try:
        return read_sealed_json(path)
    except (CheckpointError, FileKindError):
        return {}


def check_rows(path: Path, digest: Any, size_bytes: int | None = None, hint: str = "restore it from a copy") -> None:
    """Check the first `size_bytes` of a metrics.jsonl, or all of it, against a checksum.

    Nothing happens without a file or a checksum. Raises CheckpointError if they do not match.
    """
    try:
        if isinstance(digest, str) and path.exists() and compute_file_digest(path, size_bytes) != digest:
            raise CheckpointError(f"{path} is damaged or was altered: its rows do not match their SHA-256", hint)
    except FileKindError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}", hint) from None


def compute_file_digest(path: Path, size_bytes: int | None = None) -> str | None:
    """Return the SHA-256 of a file, or of its first `size_bytes`. None if it is missing or shorter. Raises OSError."""
    digest, left = hashlib.sha256(), size_bytes
    try:
        with open_file(path) as file:
            while data := file.read(2**20 if left is None else min(2**20, left)):
                digest.update(data)
                left = None if left is None else left - len(data)
    except FileNotFoundError:
        return None
    return None if left else digest.hexdigest()
