"""What a data set is to the trainer: labelled images, read one by one or held whole as bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnntrain.errors import DataError
from dnntrain.protocols import InputSpec, TargetSpec


class Source(Protocol):
    """The labelled images of one split.

    labels   int64 [n], class indices
    failed   examples that could not be read so far, with the reason; stays empty where such an example is an error
    """

    labels: NDArray[np.int64]
    failures: dict[int, str]

    def __len__(self) -> int: ...

    def read(self, index: int) -> Tensor:
        """uint8 [channels, height, width] at input size. Raises DataError naming the file."""
        ...

    def get_resident_images(self) -> Tensor | None:
        """uint8 [n, channels, height, width] in host memory, or None where the images must be read one by one."""
        ...

    def describe(self, index: int) -> str:
        """What a person can find the example by: "digits test 12", or the path of its file."""
        ...


@dataclass(frozen=True)
class DataSet:
    """Two splits of the same form.

    `digest` is the sha256 of what the data is: where it differs, a run must not be continued.
    """

    train: Source
    test: Source
    inputs: InputSpec
    targets: TargetSpec
    digest: str


class ArraySource:
    """Images that are in memory already: `images` uint8 [n, channels, height, width], `labels` [n] whole numbers.

    Several channels are kept as channels-last bytes, in which one pixel's values are neighbours, whatever order they
    came in.
    """

    def __init__(self, images: Tensor, labels: NDArray[np.int64], name: str) -> None:
        self.images = (
            images.contiguous(memory_format=torch.channels_last) if images.shape[1] > 1 else images.contiguous()
        )
        self.labels = labels
        self.failures: dict[int, str] = {}
        self.name = name

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Tensor:
        return self.images[index]

    def get_resident_images(self) -> Tensor:
        return self.images

    def describe(self, index: int) -> str:
        return f"{self.name} {index}"


def validate_labels(labels: NDArray[Any], num_classes: int, location: str) -> NDArray[np.int64]:
    """`labels` as int64 [n]. Raises DataError, naming `place`, where one is no whole number in [0, classes)."""
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{location}: labels are {labels.dtype}, not whole numbers",
            "store class indices as integers, from 0 upwards",
        )
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        first = int(np.argmax(outside))
        raise DataError(
            f"{location}: label {int(labels[first])} of example {first} is not in 0..{num_classes - 1}",
            f"number the {num_classes} classes from 0 to {num_classes - 1}, or use the data set that this file belongs to",
        )
    return labels.astype(np.int64)


def check_classes(labels: NDArray[np.int64], location: str) -> None:
    """Raises DataError, naming `place`, where all `labels` are of one class."""
    if len(labels) == 0 or labels.min() == labels.max():
        present = f"class {labels[0]} only" if len(labels) else "no example"
        raise DataError(f"{location}: holds {present}; at least 2 classes are needed", "use a file with all classes")


def compute_digest(parts: Sequence[str | NDArray[np.generic]]) -> str:
    """sha256 over texts and arrays with their shapes, in order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
        else:
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(memoryview(np.ascontiguousarray(part).data).cast("B"))
    return digest.hexdigest()
