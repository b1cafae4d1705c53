"""Reader of idx files, gzipped or not: the format of MNIST (LeCun, Cortes & Burges, 1998).

A file is a header, then one byte for each value.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnntrain.errors import DataError
from dnntrain.input.decode import check_regular_file
from dnntrain.input.source import ArraySource, check_classes, validate_labels

#: Largest array that is read; a gzipped file can claim any size in a few bytes.
MAX_BYTES = 4 * 2**30

_FETCH_AGAIN_HINT = "fetch the file again; an interrupted download leaves such a file"


def find_folder(folders: list[Path]) -> Path | None:
    """Return the first of `folders` that holds the training images, or None."""
    return next((folder for folder in folders if find_file(folder, "train-images-idx3-ubyte") is not None), None)


def find_file(folder: Path, name: str) -> Path | None:
    """Return `folder`/`name`, or the same gzipped; None if neither exists."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)


def read_split(folder: Path, prefix: str, name: str, num_classes: int) -> ArraySource:
    """Return the split `prefix` ("train" or "t10k") in `folder`.

    Raises DataError, which names the file, if it is incomplete.
    """
    import torch

    image_path, label_path = (
        _require_file(folder, f"{prefix}-{file_kind}") for file_kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    images, labels = read_idx(image_path, dimensions=3), read_idx(label_path, dimensions=1)
    if len(images) != len(labels):
        raise DataError(
            f"{label_path}: {len(labels)} labels for the {len(images)} images of {image_path.name}",
            "use the two files of one data set",
        )
    if images.size == 0:
        raise DataError(
            f"{image_path}: holds no images (its header says {'x'.join(map(str, images.shape))})", _FETCH_AGAIN_HINT
        )
    class_labels = validate_labels(labels, num_classes, str(label_path))
    check_classes(class_labels, str(label_path))
    return ArraySource(torch.from_numpy(images)[:, None], class_labels, name)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the array of bytes with `dimensions` axes in `path`.

    Raises DataError for another type or size, or damage.
    """
    status = check_regular_file(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            shape = _parse_shape(header, dimensions, path)
            size_bytes = math.prod(shape)
            if size_bytes > MAX_BYTES:
                raise DataError(
                    f"{path}: claims {size_bytes:,} bytes, more than the {MAX_BYTES:,} allowed", _FETCH_AGAIN_HINT
                )
            if path.suffix != ".gz" and status.st_size < len(header) + size_bytes:
                raise DataError(
                    f"{path}: is cut off: {status.st_size:,} of {len(header) + size_bytes:,} bytes", _FETCH_AGAIN_HINT
                )
            values = np.empty(size_bytes, dtype=np.uint8)
            offset = 0
            while offset < size_bytes and (count := file.readinto(memoryview(values.data)[offset : offset + 2**22])):
                offset += count
            if offset < size_bytes:
                raise DataError(f"{path}: is cut off: {offset:,} of {size_bytes:,} bytes of data", _FETCH_AGAIN_HINT)
            if file.read(1):
                raise DataError(
                    f"{path}: holds more than the {size_bytes:,} bytes that its header says", _FETCH_AGAIN_HINT
                )
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})", _FETCH_AGAIN_HINT) from None
    return values.reshape(shape)


def _parse_shape(header: bytes, dimensions: int, path: Path) -> tuple[int, ...]:
    """Return the sizes after the magic number.

    The magic number is two zeros, 8 (unsigned bytes) and the number of axes.
    """
    expected = bytes([0, 0, 8, dimensions])
    if len(header) < 4 + 4 * dimensions or header[:4] != expected:
        raise DataError(
            f"{path}: begins with {header[:4].hex() or 'nothing'}, not with the idx magic number {expected.hex()}",
            f"use an idx file of unsigned bytes with {dimensions} axes",
        )
    return struct.unpack(f">{dimensions}I", header[4:])


def _require_file(folder: Path, name: str) -> Path:
    path = find_file(folder, name)
    if path is None:
        raise DataError(
            f"{folder / name}: there is no such file, gzipped (.gz) or not", "fetch all four files of the data set"
        )
    return path
