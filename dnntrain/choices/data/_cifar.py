"""Reader of CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), binary or Python version.

The files of the Python version are pickles, which run code when they are read. So only torchvision
opens them, and only if the md5 of every file is the published one (torchvision holds these sums and
checks them too). The binary version is plain bytes: each record is the label byte or bytes, then
3 * 32 * 32 pixels, one plane for each color.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnntrain.choices.data._roots import download_data_set, find_data_root
from dnntrain.errors import DataError
from dnntrain.input.decode import check_regular_file
from dnntrain.input.options import FileData
from dnntrain.input.source import ArraySource, DataSet, check_classes, compute_digest, validate_labels
from dnntrain.protocols import InputSpec, TargetSpec

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_FETCH_AGAIN_HINT = "fetch the file again; an interrupted download leaves such a file"


@dataclass(frozen=True)
class CifarSpec:
    """Description of CIFAR-10 or CIFAR-100.

    Each binary record begins with `label_bytes` bytes, the last of which is the class.
    """

    name: str
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    torchvision_class: str
    binary_folder: str
    python_folder: str
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    label_bytes: int


def build_cifar(options: FileData, spec: CifarSpec) -> DataSet:
    """Read the data set; download it first if `options.download` is set.

    Raises DataError, which names the folder or file.
    """
    root = find_data_root(options.root, spec.name)
    folders = [root, root / spec.binary_folder]
    folder = next((folder for folder in folders if (folder / spec.test_files[0]).exists()), None)
    if folder is not None:
        train = read_binary(folder, spec.train_files, spec, "train")
        test = read_binary(folder, spec.test_files, spec, "test")
    else:
        train, test = (_read_python(root, options, spec, split) for split in ("train", "test"))
    digest_parts: list[Any] = [spec.name]
    for source in (train, test):
        digest_parts += [source.images.permute(0, 2, 3, 1).numpy(), source.labels]
    return DataSet(
        train, test, InputSpec(_SHAPE, spec.mean, spec.std), TargetSpec(spec.class_names), compute_digest(digest_parts)
    )


def check_cifar_files(options: FileData, spec: CifarSpec) -> None:
    """Raise DataError if there is neither folder, and `options.download` is not set."""
    root = find_data_root(options.root, spec.name)
    places = [root / spec.test_files[0], root / spec.binary_folder / spec.test_files[0], root / spec.python_folder]
    if not options.download and not any(place.exists() for place in places):
        raise _make_missing_error(root / spec.python_folder, root, spec)


def _make_missing_error(path: Path, root: Path, spec: CifarSpec) -> DataError:
    return DataError(
        f"{path}: there is no such file, nor {root / spec.binary_folder / spec.test_files[0]}",
        f"set data.root to the folder with {spec.python_folder} or {spec.binary_folder}, or data.download=true",
    )


def read_binary(folder: Path, files: tuple[str, ...], spec: CifarSpec, split: str) -> ArraySource:
    """Return the images of all `files` in `folder`, in order.

    Raises DataError, which names the file, if a file is incomplete.
    """
    import torch

    images, labels = [], []
    size_bytes = spec.label_bytes + _PIXELS
    for name in files:
        path = folder / name
        if check_regular_file(path).st_size % size_bytes:
            raise DataError(
                f"{path}: the size of {path.stat().st_size:,} bytes must be a multiple of a record's {size_bytes:,}",
                _FETCH_AGAIN_HINT,
            )
        records = np.fromfile(path, dtype=np.uint8).reshape(-1, size_bytes)
        labels.append(validate_labels(records[:, spec.label_bytes - 1], len(spec.class_names), str(path)))
        images.append(records[:, spec.label_bytes :].reshape(-1, *_SHAPE))
    all_labels = np.concatenate(labels)
    check_classes(all_labels, str(folder / files[0]))
    return ArraySource(torch.from_numpy(np.concatenate(images)), all_labels, f"{spec.name} {split}")


def _read_python(root: Path, options: FileData, spec: CifarSpec, split: str) -> ArraySource:
    import torch
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    dataset_class = getattr(datasets, spec.torchvision_class)
    files = [
        (root / dataset_class.base_folder / name, md5)
        for name, md5 in [*dataset_class.train_list, *dataset_class.test_list]
    ]
    files.append((root / dataset_class.base_folder / dataset_class.meta["filename"], dataset_class.meta["md5"]))
    if options.download and not all(check_integrity(path, md5) for path, md5 in files):
        download_data_set(root, spec.torchvision_class)
    for path, md5 in files:
        if not path.exists():
            raise _make_missing_error(path, root, spec)
        if not check_integrity(path, md5):
            raise DataError(f"{path}: the md5 must be {md5}; another pickle is not opened", _FETCH_AGAIN_HINT)
    torchvision_dataset = dataset_class(str(root), train=split == "train")
    labels = validate_labels(np.asarray(torchvision_dataset.targets), len(spec.class_names), spec.name)
    return ArraySource(torch.from_numpy(torchvision_dataset.data).permute(0, 3, 1, 2), labels, f"{spec.name} {split}")
