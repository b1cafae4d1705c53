"""Write safetensors files whose bytes depend on tensors and metadata alone, with a checksum."""

from __future__ import annotations

import errno
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


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a file of `tensors`, on the host, without metadata, and sync it to disk.

    Their bytes are not copied. Returns the SHA-256 that the file must have, computed from memory. Raises OSError.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        number = _OS_ERROR.search(str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code) if number else str(error), str(path)) from error
    # The library makes its files readable for the owner alone.
    path.chmod(path.parent.stat().st_mode & 0o666)
    sync_to_disk(path)
    return _compute_expected_digest(path, tensors)


def _compute_expected_digest(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the header of a file and of the tensors in memory, in its order."""
    import torch

    with open_file(path) as file:
        prefix = file.read(8)
        text = file.read(struct.unpack("<Q", prefix)[0])
    digest = hashlib.sha256(prefix + text)
    header = json.loads(text)
    for name in sorted(header, key=lambda name: header[name]["data_offsets"]):
        if tensors[name].numel():
            values: Any = tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy()
            digest.update(values)
    return digest.hexdigest()


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
