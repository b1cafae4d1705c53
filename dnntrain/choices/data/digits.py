"""8x8 handwritten digits (Alpaydin & Kaynak, UCI, 1998), shipped with dnntrain.

See DIGITS_LICENSE.md.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from dnntrain.errors import DataError
from dnntrain.input.options import ImageData
from dnntrain.input.source import ArraySource, DataSet, compute_digest
from dnntrain.protocols import InputSpec, TargetSpec

if TYPE_CHECKING:
    from torch import Tensor

FILE = Path(__file__).with_name("digits.npz")


@dataclass(frozen=True)
class Digits(ImageData):
    """1,437 training and 360 test images of digits, 8x8 gray pixels.

    They need no network. The split is fixed.
    """

    default_crop_padding: ClassVar[int] = 1

    def build(self) -> DataSet:
        arrays = _read_arrays(FILE)
        train = ArraySource(*_scale_to_bytes(arrays["train_images"], arrays["train_labels"]), "digits train")
        test = ArraySource(*_scale_to_bytes(arrays["test_images"], arrays["test_labels"]), "digits test")
        return DataSet(
            train=train,
            test=test,
            inputs=InputSpec((1, 8, 8), mean=(0.3053,), std=(0.3760,)),
            targets=TargetSpec(tuple("0123456789")),
            digest=compute_digest(["digits", *(arrays[name] for name in sorted(arrays))]),
        )


def _read_arrays(path: Path) -> dict[str, NDArray[np.uint8]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in ("train_images", "train_labels", "test_images", "test_labels")}
    except (OSError, ValueError, KeyError, BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: the shipped data set cannot be read ({error})", "install dnntrain again") from None


def _scale_to_bytes(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[Tensor, NDArray[np.int64]]:
    """Scale gray values from 0..16 to 0..255, rounded to the nearest; add a channel."""
    import torch

    pixels = ((images.astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)
    return torch.from_numpy(pixels)[:, None], labels.astype(np.int64)
