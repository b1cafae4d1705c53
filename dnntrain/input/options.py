"""The knobs that every data choice has."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.config.fields import Fraction, Literal, NonNegativeInt, PositiveInt
from dnntrain.protocols import DataChoice


@dataclass(frozen=True)
class ImageData(DataChoice):
    """Images with class labels. A choice adds `build() -> DataSet`."""

    val_fraction: Fraction = 0.1  # share of the training split held out for validation, the same share of each class
    pipeline: Literal["auto", "resident", "streaming"] = (
        "auto"  # whole data set on the device, or read by worker processes
    )
    num_workers: NonNegativeInt | None = (
        None  # reading processes of the streaming pipeline; null: one per free CPU core, at most 8
    )
    on_error: Literal["raise", "skip"] = (
        "raise"  # what an unreadable image does: end the run, or be skipped and counted
    )
    mix_block_size: PositiveInt = 8  # mixing methods pair examples within blocks of this many, so that layouts agree


@dataclass(frozen=True)
class FileData(ImageData):
    """A known data set that lies in files of a fixed layout."""

    root: str | None = None  # folder that holds the files; null: $DNNTRAIN_DATA, else $XDG_DATA_HOME/dnntrain
    download: bool = False  # fetch missing files into the folder, through torchvision
