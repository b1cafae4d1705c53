"""Finds the images of a folder of class folders, and what is wrong with it."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnntrain.errors import DataError
from dnntrain.input.decode import IMAGE_SUFFIXES, check_regular
from dnntrain.input.source import digest_of
from dnntrain.utils.rng import Index

#: Up to this many bytes, the digest of a folder covers the contents of its files; above, their names and sizes.
_CONTENT_BYTES = 64 * 2**20

_LAYOUT = "put pictures in ROOT/train/CLASS/ and ROOT/test/CLASS/, or in ROOT/CLASS/"


@dataclass(frozen=True)
class ClassFolders:
    """The images of one split, class by class in alphabetical order, sorted within each."""

    folder: Path
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]

    @classmethod
    def scan(cls, folder: Path, strict: bool) -> ClassFolders:
        """The split in `folder`. Raises DataError naming what is missing and, where `strict`, an empty file."""
        classes = [path for path in _entries(folder) if path.is_dir()]
        if not classes:
            raise DataError(f"{folder}: holds no class folder", _LAYOUT)
        if len(classes) == 1:
            raise DataError(
                f"{folder}: holds one class only ({shown(classes[0].name)}); at least 2 are needed", _LAYOUT
            )
        paths: list[Path] = []
        labels: list[int] = []
        for label, class_folder in enumerate(classes):
            found = sorted(_images(class_folder))
            if not found:
                raise DataError(
                    f"{class_folder}: class {shown(class_folder.name)} has no images",
                    f"add files of the kinds {', '.join(sorted(IMAGE_SUFFIXES))}, or remove the folder",
                )
            paths += found
            labels += [label] * len(found)
        if strict:
            for path in paths:
                check_regular(path)
        names = tuple(shown(path.name) for path in classes)
        return cls(folder, names, tuple(paths), np.array(labels, dtype=np.int64))

    def chosen(self, index: Index) -> ClassFolders:
        """The images `index` of this split, as a split with the same classes."""
        return ClassFolders(self.folder, self.class_names, tuple(self.paths[i] for i in index), self.labels[index])

    @staticmethod
    def digest(splits: list[ClassFolders], root: Path) -> str:
        """sha256 over class names, labels, names and sizes of all files, and their contents where those are small."""
        paths = [path for split in splits for path in split.paths]
        sizes = [_size_bytes(path) for path in paths]
        parts: list[str | NDArray[np.generic]] = ["image_folder", *splits[0].class_names]
        parts += [split.labels for split in splits]
        parts += [f"{path.relative_to(root)}:{size}" for path, size in zip(paths, sizes, strict=True)]
        if sum(sizes) <= _CONTENT_BYTES:
            parts += [_content(path) for path, size in zip(paths, sizes, strict=True) if size > 0]
        return digest_of(parts)


def find_splits(root: Path) -> tuple[Path, Path | None]:
    """The folders of training and test split; no test folder: a part of the first is to be held out."""
    if not root.exists():
        raise DataError(f"{root}: there is no such folder", "set data.root to the folder of your images")
    if not root.is_dir():
        raise DataError(f"{root}: is no folder", "set data.root to the folder of your images")
    if not _entries(root):
        raise DataError(f"{root}: the folder is empty", _LAYOUT)
    if not (root / "train").is_dir():
        return root, None
    return root / "train", next((root / name for name in ("test", "val") if (root / name).is_dir()), None)


def check_same_classes(train: ClassFolders, test: ClassFolders) -> None:
    """Raises DataError, naming the classes that only one of the splits has."""
    if train.class_names == test.class_names:
        return
    only_train = sorted(set(train.class_names) - set(test.class_names))
    only_test = sorted(set(test.class_names) - set(train.class_names))
    parts = [(train.folder, only_train), (test.folder, only_test)]
    listed = "; ".join(f"only in {folder}: {', '.join(names[:5])}" for folder, names in parts if names)
    raise DataError(f"the splits have different classes: {listed}", "give both splits the same class folders")


def warn_of_shared(train: ClassFolders, test: ClassFolders) -> None:
    """Warns of test images that are training images too: the same file, or the same name with the same bytes."""
    known = {_identity(path) for path in train.paths}
    by_name = {(path.name, _size_bytes(path)): path for path in train.paths}
    shared = []
    for path in test.paths:
        twin = by_name.get((path.name, _size_bytes(path)))
        if _identity(path) in known or (twin is not None and _content(path) == _content(twin)):
            shared.append(path)
    if shared:
        warnings.warn(
            f"{len(shared)} of {len(test.paths)} test images are training images too, such as {shared[0]}: "
            "the test figures will be too good",
            stacklevel=2,
        )


def shown(name: str) -> str:
    """A folder's name as text: bytes that are no UTF-8 are replaced, so that it can be written to any file."""
    return os.fsencode(name).decode("utf-8", "replace")


def _entries(folder: Path) -> list[Path]:
    """What `folder` holds, sorted by name, without hidden entries."""
    try:
        return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})", f"run: chmod u+rx '{folder}'") from None


def _images(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Files with an image's suffix in `folder` and below. A folder that a link leads back to is not entered again."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for path in _entries(folder):
        if path.is_dir():
            yield from _images(path, above | {real})
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield path


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _identity(path: Path) -> tuple[int, int] | Path:
    try:
        status = path.stat()
        return status.st_dev, status.st_ino
    except OSError:
        return path


def _content(path: Path) -> str:
    """sha256 of a regular file's bytes; empty where it cannot be read."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (DataError, OSError):
        return ""
