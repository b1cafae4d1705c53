"""Reads CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): the binary version, or the Python version once its md5 is checked.

The Python version's files are pickles, which run code when they are read. So they are given to torchvision only, and
only where the md5 of every file is the published one (torchvision holds those sums and checks them too). The binary
version is plain bytes: each record is the label byte or bytes and 3 * 32 * 32 pixels, one plane for each colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnntrain.choices.data._roots import data_root, downloaded
from dnntrain.errors import DataError
from dnntrain.input.decode import check_regular
from dnntrain.input.options import FileData
from dnntrain.input.source import ArraySource, DataSet, check_classes, checked_labels, digest_of

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_AGAIN = "fetch the file again; an interrupted download leaves such a file"


@dataclass(frozen=True)
class CifarDataSet:
    """What is known of one of the two. `label_bytes` begin each binary record; the last of them is the class."""

    name: str
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    torchvision_class: str
    binary_folder: str
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    label_bytes: int


def build_cifar(options: FileData, known: CifarDataSet) -> DataSet:
    """Reads the data set, downloaded first where asked for. Raises DataError naming folder or file."""
    root = data_root(options.root, known.name)
    folders = [root, root / known.binary_folder]
    folder = next((folder for folder in folders if (folder / known.test_files[0]).exists()), None)
    if folder is not None:
        train = read_binary(folder, known.train_files, known, "train")
        test = read_binary(folder, known.test_files, known, "test")
    else:
        train, test = (_read_python(root, options, known, split) for split in ("train", "test"))
    parts: list[Any] = [known.name]
    for source in (train, test):
        parts += [source.images.permute(0, 2, 3, 1).numpy(), source.labels]
    return DataSet(train, test, known.class_names, _SHAPE, known.mean, known.std, digest_of(parts))


def read_binary(folder: Path, files: tuple[str, ...], known: CifarDataSet, split: str) -> ArraySource:
    """The images of all `files` in `folder`, in order. Raises DataError naming a file that is not whole."""
    images, labels = [], []
    size_bytes = known.label_bytes + _PIXELS
    for name in files:
        path = folder / name
        if check_regular(path).st_size % size_bytes:
            raise DataError(
                f"{path}: {path.stat().st_size:,} bytes are no whole number of records of {size_bytes:,}", _AGAIN
            )
        records = np.fromfile(path, dtype=np.uint8).reshape(-1, size_bytes)
        labels.append(checked_labels(records[:, known.label_bytes - 1], len(known.class_names), str(path)))
        images.append(records[:, known.label_bytes :].reshape(-1, *_SHAPE))
    joined = np.concatenate(labels)
    check_classes(joined, str(folder / files[0]))
    return ArraySource(torch.from_numpy(np.concatenate(images)), joined, f"{known.name} {split}")


def _read_python(root: Path, options: FileData, known: CifarDataSet, split: str) -> ArraySource:
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    kind = getattr(datasets, known.torchvision_class)
    files = [(root / kind.base_folder / name, md5) for name, md5 in [*kind.train_list, *kind.test_list]]
    files.append((root / kind.base_folder / kind.meta["filename"], kind.meta["md5"]))
    if options.download and not all(check_integrity(path, md5) for path, md5 in files):
        downloaded(root, known.torchvision_class)
    for path, md5 in files:
        if not path.exists():
            raise DataError(
                f"{path}: there is no such file, nor {root / known.binary_folder / known.test_files[0]}",
                f"set data.root to the folder with {kind.base_folder} or {known.binary_folder}, or data.download=true",
            )
        if not check_integrity(path, md5):
            raise DataError(f"{path}: its md5 is not {md5}; it is a pickle, and so not opened", _AGAIN)
    read = kind(str(root), train=split == "train")
    labels = checked_labels(np.asarray(read.targets), len(known.class_names), known.name)
    return ArraySource(torch.from_numpy(read.data).permute(0, 3, 1, 2), labels, f"{known.name} {split}")
