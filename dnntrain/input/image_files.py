"""Decode image files without labels in batches, by worker processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dnntrain.input.audio import read_spectrogram
from dnntrain.input.augment import NO_AUGMENTATION
from dnntrain.input.decode import decode_image
from dnntrain.input.normalize import make_normalizer
from dnntrain.input.reader import Reader, Request
from dnntrain.input.streaming import read_ahead
from dnntrain.protocols import InputSpec
from dnntrain.protocols.audio_reading import AudioReading
from dnntrain.protocols.image_reading import ImageReading

_PLAIN = ImageReading()


class UnlabeledFileSource:
    """Image files as a source; `read` returns the center, as evaluation sees it."""

    def __init__(
        self, files: Sequence[Path], input_shape: tuple[int, int, int], reading: ImageReading | AudioReading = _PLAIN
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
        return read_file(self.files[index], channels, (height, width), self.reading)

    def get_resident_inputs(self) -> None:
        return None

    def describe(self, index: int) -> str:
        return str(self.files[index])


def read_file(path: Path, channels: int, size: tuple[int, int], reading: ImageReading | AudioReading) -> Tensor:
    """Return an image, or the spectrogram of a sound: uint8 [channels, height, width]."""
    if isinstance(reading, AudioReading):
        return read_spectrogram(path, reading)
    return decode_image(path, channels, size, reading)


class DecodedBatch(NamedTuple):
    """A batch of readable files, their normalized images, and the failures.

    `failures` holds the reason for each unreadable file.
    """

    files: Sequence[Path]
    images: Tensor
    failures: dict[Path, str]


def decode_in_batches(
    files: Sequence[Path],
    inputs: InputSpec,
    *,
    batch_size: int,
    workers: int,
    reading: ImageReading | AudioReading = _PLAIN,
) -> Iterator[DecodedBatch]:
    """Yield `files` in order, decoded, `batch_size` at a time.

    `workers` processes decode them (0: this one). `reading` is that of the data
    that the model was trained on.
    """
    channels, height, width = input_shape = inputs.shape
    source = UnlabeledFileSource(files, (channels, height, width), reading)
    reader = Reader(source, NO_AUGMENTATION, 0, True, candidates=None, training=False)
    index = np.arange(len(files))
    requests = [
        Request(index[start : start + batch_size], index[start : start + batch_size], 0)
        for start in range(0, len(files), batch_size)
    ]
    normalize = make_normalizer(inputs, "cpu", channels_last=False)
    batch_bytes = min(batch_size, len(files)) * math.prod(input_shape)
    with closing(read_ahead(reader, requests, workers, "cpu", batch_bytes, "--workers ")) as replies:
        for reply in replies:
            read_count = len(reply.examples)
            images = torch.empty(0, *input_shape)
            if read_count:
                images = normalize(reply.rows, torch.empty(reply.rows.shape, dtype=torch.float32))
            failures = {files[number]: reason for number, reason in reply.failures.items()}
            yield DecodedBatch([files[number] for number in reply.examples], images, failures)
