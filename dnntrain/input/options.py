"""Options that every data choice has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from dnntrain.config.fields import Fraction, Literal, NonNegativeInt, PositiveInt
from dnntrain.protocols import DataChoice

#: With `pipeline=auto`, splits up to this many bytes at input size are decoded before the first step and held in memory.
RESIDENT_BYTES = 256 * 2**20


@dataclass(frozen=True)
class ImageData(DataChoice):
    """Images with class labels. A choice adds `build() -> DataSet`."""

    val_fraction: Fraction = 0.1  # fraction of each class of the training split held out for validation
    pipeline: Literal["auto", "resident", "cached", "streaming"] = (
        "auto"  # auto, resident (whole data set on the device), cached (worker processes decode once) or streaming
    )
    num_workers: NonNegativeInt | None = (
        None  # worker processes that read files; null: one per free CPU core, at most 8
    )
    on_error: Literal["raise", "skip"] = (
        "raise"  # if an image is unreadable: raise ends the run, skip counts it; more than 1 % skipped ends the run
    )
    mix_block_size: PositiveInt = (
        8  # examples per block within which mixing methods pair examples, so that layouts agree
    )
    sampler: Literal["shuffled", "balanced"] = (
        "shuffled"  # order of an epoch: shuffled, or balanced (equally many examples of each class)
    )

    def keeps_decoded(self, size_bytes: int) -> bool:
        """Return whether `size_bytes` of inputs are decoded once and kept in memory."""
        return self.pipeline == "resident" or (self.pipeline == "auto" and size_bytes <= RESIDENT_BYTES)


@dataclass(frozen=True)
class FileData(ImageData):
    """A known data set in files of a fixed layout."""

    place_options: ClassVar[tuple[str, ...]] = ("root",)

    root: str | None = None  # folder of the files; null: $DNNTRAIN_DATA, else $XDG_DATA_HOME/dnntrain
    download: bool = False  # true: download missing files into the folder, through torchvision

    def without_download(self) -> Self:
        return replace(self, download=False)
