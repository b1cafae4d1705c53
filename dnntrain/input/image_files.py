"""Decode image files without labels in batches, by worker processes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dnntrain.errors import DataError
from dnntrain.input.augment import NO_AUGMENTATION
from dnntrain.input.decode import IMAGE_SUFFIXES, decode_image
from dnntrain.input.normalize import Normalizer
from dnntrain.input.reader import Reader, Request
from dnntrain.input.streaming import read_ahead
from dnntrain.protocols.image_reading import ImageReading
from dnntrain.utils.files import is_run_directory

_PLAIN = ImageReading()

#: Folders that archive tools and editors leave.
_TOOL_FOLDERS = ("__MACOSX", "__pycache__", "@eaDir", "lost+found")


class UnlabeledFileSource:
    """Image files as a source; `read` returns the center, as evaluation sees it."""

    def __init__(
        self, files: Sequence[Path], input_shape: tuple[int, int, int], reading: ImageReading = _PLAIN
    ) -> None:
        self.files = files
        self.shape = input_shape
        self.reading = reading
        self.labels = np.zeros(len(files), np.int64)
        self.keys: Sequence[str] | None = None
        self.failures: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Tensor:
        channels, height, width = self.shape
        return decode_image(self.files[index], channels, (height, width), self.reading)

    def get_resident_images(self) -> None:
        return None

    def describe(self, index: int) -> str:
        return str(self.files[index])


class DecodedBatch(NamedTuple):
    """A batch of readable files, their normalized images, and the failures.

    `failures` holds the reason for each unreadable file.
    """

    files: Sequence[Path]
    images: Tensor
    failures: dict[Path, str]


def decode_in_batches(
    files: Sequence[Path],
    input_shape: tuple[int, int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    batch_size: int,
    workers: int,
    reading: ImageReading = _PLAIN,
) -> Iterator[DecodedBatch]:
    """Yield `files` in order, decoded, `batch_size` at a time.

    `workers` processes decode them (0: this one). `reading` is that of the data
    that the model was trained on.
    """
    source = UnlabeledFileSource(files, input_shape, reading)
    reader = Reader(source, NO_AUGMENTATION, 0, True, candidates=None, training=False)
    index = np.arange(len(files))
    requests = [
        Request(index[start : start + batch_size], index[start : start + batch_size], 0)
        for start in range(0, len(files), batch_size)
    ]
    normalize = Normalizer(input_shape, mean, std, "cpu", channels_last=False)
    batch_bytes = min(batch_size, len(files)) * math.prod(input_shape)
    with closing(read_ahead(reader, requests, workers, "cpu", batch_bytes, "--workers ")) as replies:
        for reply in replies:
            read_count = len(reply.examples)
            images = torch.empty(0, *input_shape)
            if read_count:
                images = normalize(reply.rows, torch.empty(reply.rows.shape, dtype=torch.float32))
            failures = {files[number]: reason for number, reason in reply.failures.items()}
            yield DecodedBatch([files[number] for number in reply.examples], images, failures)


def find_image_files(paths: Sequence[Path]) -> list[Path]:
    """Return the image files among `paths` and in folders among them, as training finds them.

    Raises DataError if one is missing or no image is found.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(find_images(path))
        elif path.exists() or path.is_symlink():
            files.append(path)
        else:
            raise DataError(f"{path} does not exist", "name image files, or folders of image files")
    if not files:
        raise DataError(f"no image in {', '.join(map(str, paths))}", f"formats: {', '.join(sorted(IMAGE_SUFFIXES))}")
    return files


def list_entries(folder: Path) -> list[Path]:
    """Return the entries of `folder`, sorted by name, without hidden ones."""
    try:
        return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})", f"run: chmod u+rx '{folder}'") from None


def find_images(folder: Path, deep: bool = True) -> Iterator[Path]:
    """Yield the files with an image suffix in `folder` and, if `deep`, below.

    Links are followed, except to a folder that is being read. Hidden files, run directories and
    folders of archive tools are skipped.
    """
    yield from (path for path in iterate_files(folder, deep) if path.suffix.lower() in IMAGE_SUFFIXES)


def iterate_files(folder: Path, deep: bool = True, parents: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield all files that `find_images` looks at."""
    real_folder = os.path.realpath(folder)
    if real_folder in parents:
        return
    for path in list_entries(folder):
        if not path.is_dir():
            yield path
        elif deep and not is_skipped_folder(path):
            yield from iterate_files(path, deep, parents | {real_folder})


def is_skipped_folder(folder: Path) -> bool:
    """Return whether a folder is never data: a run directory, a folder of runs, or of an archive tool."""
    return folder.name in _TOOL_FOLDERS or is_run_directory(folder) or _holds_runs(folder)


def _holds_runs(folder: Path) -> bool:
    """Return whether a folder named as dnntrain names its runs holds run directories only."""
    if folder.name not in ("runs", "multirun", "outputs"):
        return False
    try:
        return any(is_run_directory(path) for pattern in ("*/", "*/*/", "*/*/*/") for path in folder.glob(pattern))
    except OSError:
        return False


def count_other_files(folder: Path) -> dict[str, int]:
    """Return the number of files in `folder` that are not read, by suffix, the most frequent first."""
    counts: dict[str, int] = {}
    for path in iterate_files(folder):
        if (suffix := path.suffix.lower()) not in IMAGE_SUFFIXES:
            counts[suffix or "without suffix"] = counts.get(suffix or "without suffix", 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
