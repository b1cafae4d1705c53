"""Data sets of the MNIST family: four idx files each, searched for in the usual folders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dnntrain.choices.data._idx import find_folder, read_split
from dnntrain.choices.data._roots import download_data_set, find_data_root
from dnntrain.errors import DataError
from dnntrain.input.options import FileData
from dnntrain.input.source import DataSet, compute_digest
from dnntrain.protocols import InputSpec, TargetSpec


@dataclass(frozen=True)
class IdxSpec:
    """Description of one data set.

    torchvision_class  downloads the data set
    system_folder      folder in which system packages install it
    """

    name: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    torchvision_class: str
    system_folder: Path | None = None


def build_idx(options: FileData, spec: IdxSpec) -> DataSet:
    """Read the data set; download it first if `options.download` is set.

    Raises DataError, which names the folder or file.
    """
    folder = find_idx_folder(options, spec)
    if folder is None:
        download_data_set(find_data_root(options.root, spec.name), spec.torchvision_class)
        folder = find_idx_folder(replace(options, download=False), spec)
    assert folder is not None
    return _read_data_set(folder, spec)


def find_idx_folder(options: FileData, spec: IdxSpec) -> Path | None:
    """Return the folder with the files; None if there is none, and `options.download` is set.

    Raises DataError if there is none, and it is not set.
    """
    root = find_data_root(options.root, spec.name)
    folders = [
        root / subfolder
        for subfolder in ("", "raw", f"{spec.torchvision_class}/raw", spec.name, spec.name.replace("_", "-"))
    ]
    if spec.system_folder is not None and options.root is None:
        folders.append(spec.system_folder)
    folder = find_folder(folders)
    if folder is None and not options.download:
        raise DataError(
            f"{spec.name}: train-images-idx3-ubyte(.gz) is in none of {', '.join(str(folder) for folder in folders)}",
            "set data.root=FOLDER to the folder with the four idx files, or data.download=true",
        )
    return folder


def _read_data_set(folder: Path, spec: IdxSpec) -> DataSet:
    splits = {
        split: read_split(folder, split, f"{spec.name} {name}", len(spec.class_names))
        for split, name in _SPLIT_NAMES.items()
    }
    train, test = splits["train"], splits["t10k"]
    if train.images.shape[1:] != test.images.shape[1:]:
        sizes = " and ".join("x".join(map(str, source.images.shape[2:])) for source in (train, test))
        raise DataError(f"{folder}: training and test images differ in size: {sizes}", "use the files of one data set")
    _, channels, height, width = train.images.shape
    digest_parts: list[Any] = [spec.name]
    for source in (train, test):
        digest_parts += [source.images.numpy(), source.labels]
    return DataSet(
        train=train,
        test=test,
        inputs=InputSpec((channels, height, width), spec.mean, spec.std),
        targets=TargetSpec(spec.class_names),
        digest=compute_digest(digest_parts),
    )


_SPLIT_NAMES = {"train": "train", "t10k": "test"}
