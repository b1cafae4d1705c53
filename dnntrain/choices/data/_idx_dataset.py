"""Data sets of the MNIST family: four idx files each, found in the folders where they usually lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnntrain.choices.data._idx import find_folder, read_split
from dnntrain.choices.data._roots import data_root, downloaded
from dnntrain.errors import DataError
from dnntrain.input.options import FileData
from dnntrain.input.source import DataSet, digest_of


@dataclass(frozen=True)
class IdxDataSet:
    """What is known of one data set. `torchvision_class` downloads it; `system_folder`: where packages put it."""

    name: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    torchvision_class: str
    system_folder: Path | None = None


def build_idx(options: FileData, known: IdxDataSet) -> DataSet:
    """Reads the data set, downloaded first where asked for. Raises DataError naming folder or file."""
    root = data_root(options.root, known.name)
    folders = [
        root / below
        for below in ("", "raw", f"{known.torchvision_class}/raw", known.name, known.name.replace("_", "-"))
    ]
    if known.system_folder is not None and options.root is None:
        folders.append(known.system_folder)
    folder = find_folder(folders)
    if folder is None and options.download:
        downloaded(root, known.torchvision_class)
        folder = find_folder(folders)
    if folder is None:
        raise DataError(
            f"{known.name}: train-images-idx3-ubyte(.gz) is in none of {', '.join(str(folder) for folder in folders)}",
            "set data.root=FOLDER to the folder with the four idx files, or data.download=true",
        )
    return _read(folder, known)


def _read(folder: Path, known: IdxDataSet) -> DataSet:
    splits = {
        split: read_split(folder, split, f"{known.name} {name}", len(known.class_names))
        for split, name in _SPLITS.items()
    }
    train, test = splits["train"], splits["t10k"]
    if train.images.shape[1:] != test.images.shape[1:]:
        sizes = " and ".join("x".join(map(str, source.images.shape[2:])) for source in (train, test))
        raise DataError(f"{folder}: training and test images differ in size: {sizes}", "use the files of one data set")
    _, channels, height, width = train.images.shape
    parts: list[Any] = [known.name]
    for source in (train, test):
        parts += [source.images.numpy(), source.labels]
    return DataSet(
        train=train,
        test=test,
        class_names=known.class_names,
        input_shape=(channels, height, width),
        mean=known.mean,
        std=known.std,
        digest=digest_of(parts),
    )


_SPLITS = {"train": "train", "t10k": "test"}
