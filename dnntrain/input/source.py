"""Define data sets of labeled examples, read one by one or held in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dnntrain.errors import DataError
from dnntrain.protocols import InputSpec, TargetSpec
from dnntrain.utils.rng import Index

if TYPE_CHECKING:
    from torch import Tensor


class Source(Protocol):
    """The labeled examples of one split.

    labels    int64 [n] class indices, or floating point [n, …] values of targets
    keys      a name of each example that other examples do not change, such as its path; None: its number
    failures  examples that could not be read so far, with the reason; stays empty if such an example is an error
    """

    labels: NDArray[Any]
    keys: Sequence[str] | None
    failures: dict[int, str]

    def __len__(self) -> int: ...

    def read(self, index: int) -> Tensor:
        """Return one image at input size, uint8 [channels, height, width], or one row, float32 [columns].

        Raises DataError naming the file.
        """
        ...

    def get_resident_inputs(self) -> Tensor | None:
        """Return all inputs in host memory: images uint8 [n, channels, height, width], or rows float32 [n, columns].

        Returns None if inputs must be read one by one.
        """
        ...

    def describe(self, index: int) -> str:
        """Return a name of the example: "digits test 12", or the path of its file."""
        ...


@dataclass(frozen=True)
class DataSet:
    """Two splits with the same inputs and targets.

    digest         SHA-256 of the data. A run must not be resumed with another digest
    val_index      the examples of `train` that are the validation split; None: a part is held out
    has_test_part  False if `test` is a part held out of one set
    notes          remarks about the data for the plan
    lists_labels   whether an example names its labels, and so lacks every other label
    """

    train: Source
    test: Source
    inputs: InputSpec
    targets: TargetSpec
    digest: str
    val_index: Index | None = None
    has_test_part: bool = True
    notes: tuple[str, ...] = ()
    lists_labels: bool = False


class ArraySource:
    """Images in memory.

    `images` are uint8 [n, channels, height, width], `labels` [n] integers. Images of several
    channels are kept as channels-last bytes: the values of one pixel are adjacent.
    """

    def __init__(self, images: Tensor, labels: NDArray[np.int64], name: str) -> None:
        import torch

        self.images = (
            images.contiguous(memory_format=torch.channels_last) if images.shape[1] > 1 else images.contiguous()
        )
        self.labels: NDArray[Any] = labels
        self.keys: Sequence[str] | None = None
        self.failures: dict[int, str] = {}
        self.name = name

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Tensor:
        return self.images[index]

    def get_resident_inputs(self) -> Tensor:
        return self.images

    def describe(self, index: int) -> str:
        return f"{self.name} {index}"


def make_targets(labels: NDArray[Any]) -> Tensor:
    """Return labels as the targets of a batch: int64 class indices, or float32 values."""
    import torch

    targets = torch.from_numpy(labels)
    return targets.float() if targets.is_floating_point() else targets


def validate_labels(labels: NDArray[Any], num_classes: int, location: str) -> NDArray[np.int64]:
    """Return `labels` as int64 [n].

    Raises DataError, naming `location`, if one is not in [0, num_classes).
    """
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{location}: labels must be integers, but are {labels.dtype}",
            "store class indices as integers, from 0 on",
        )
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        first = int(np.argmax(outside))
        raise DataError(
            f"{location}: label {int(labels[first])} of example {first} must be in 0..{num_classes - 1}",
            f"number the {num_classes} classes from 0 to {num_classes - 1}, or use the data set of this file",
        )
    return labels.astype(np.int64)


def check_classes(labels: NDArray[np.int64], location: str) -> None:
    """Raise DataError, naming `location`, if all `labels` are of one class."""
    if len(labels) == 0 or labels.min() == labels.max():
        present = f"class {labels[0]} only" if len(labels) else "no example"
        raise DataError(f"{location}: holds {present}; at least 2 classes are needed", "use a file with all classes")


def compute_digest(parts: Sequence[str | NDArray[np.generic]]) -> str:
    """Return the SHA-256 over texts and arrays with their shapes, in order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
        else:
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(memoryview(np.ascontiguousarray(part).data).cast("B"))
    return digest.hexdigest()
