"""Write safetensors files whose bytes depend on tensors and metadata alone, with a checksum."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dnntrain.utils.files import open_file, sync_to_disk

#: The key of the metadata with the SHA-256 of everything else: names, dtypes, shapes, offsets, bytes.
CONTENT_DIGEST = "content_sha256"

#: The number of a system's error in the text of a SafetensorError.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def encode_safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file.

    safetensors writes its metadata in a random order, so the header is written here: metadata by
    key, tensors by offset.
    """
    from safetensors.torch import save

    data = save(dict(tensors))
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    entries = dict(sorted(header.items(), key=lambda item: (item[1]["data_offsets"], item[0])))
    buffer = memoryview(data)[8 + length :]
    sealed_metadata = {**metadata, CONTENT_DIGEST: compute_content_digest(entries, buffer)}
    text = json.dumps(
        {"__metadata__": dict(sorted(sealed_metadata.items())), **entries}, separators=(",", ":")
    ).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((struct.pack("<Q", len(text)), text, buffer))


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a file of `tensors` without metadata and without a copy of their bytes, and sync it to disk.

    Raises OSError.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        number = _OS_ERROR.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    sync_to_disk(path)


def is_intact(path: Path, header: Mapping[str, Any], length: int) -> bool:
    """Return whether a file has the contents that its metadata name, or names none.

    `header` is the header of `length` bytes.
    """
    expected_digest = header.get("__metadata__", {}).get(CONTENT_DIGEST)
    if expected_digest is None:
        return True
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    with (
        open_file(path, follow_links=True) as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
        view[8 + length :] as buffer,
    ):
        digest = compute_content_digest(entries, buffer)
    return bool(digest == expected_digest)


def compute_content_digest(entries: Mapping[str, object], buffer: memoryview | bytes) -> str:
    """Return the SHA-256 of the entries of a header, without metadata, and the bytes of all tensors."""
    digest = hashlib.sha256(json.dumps(entries, sort_keys=True).encode())
    with memoryview(buffer) as view:
        digest.update(view)
    return digest.hexdigest()
