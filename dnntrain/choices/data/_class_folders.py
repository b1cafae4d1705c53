"""Search and checks of a folder that holds one folder for each class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnntrain.errors import DataError
from dnntrain.input.decode import IMAGE_SUFFIXES, check_regular_file
from dnntrain.input.source import compute_digest
from dnntrain.utils.messages import warn_user
from dnntrain.utils.rng import Index

#: Up to this many bytes, the digest of a folder covers the contents of its files; above, their names and sizes.
_MAX_CONTENT_BYTES = 64 * 2**20

_LAYOUT_HINT = "put pictures in ROOT/train/CLASS/ and ROOT/test/CLASS/, or in ROOT/CLASS/"


@dataclass(frozen=True)
class ClassFolders:
    """The images of one split, class by class in alphabetical order, sorted within each."""

    folder: Path
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]

    @classmethod
    def scan(cls, folder: Path, strict: bool) -> ClassFolders:
        """Return the split in `folder`.

        Raises DataError if there are fewer than 2 classes or a class without images; if `strict`,
        also for an empty file.
        """
        classes = [path for path in _list_entries(folder) if path.is_dir()]
        if not classes:
            raise DataError(f"{folder}: there is no class folder in it", _LAYOUT_HINT)
        if len(classes) == 1:
            raise DataError(
                f"{folder}: holds only one class ({format_folder_name(classes[0].name)}); at least 2 are needed",
                _LAYOUT_HINT,
            )
        paths: list[Path] = []
        labels: list[int] = []
        for label, class_folder in enumerate(classes):
            class_images = sorted(_find_images(class_folder))
            if not class_images:
                raise DataError(
                    f"{class_folder}: class {format_folder_name(class_folder.name)} has no images",
                    f"add files of the kinds {', '.join(sorted(IMAGE_SUFFIXES))}, or remove the folder",
                )
            paths += class_images
            labels += [label] * len(class_images)
        if strict:
            for path in paths:
                check_regular_file(path)
        names = tuple(format_folder_name(path.name) for path in classes)
        return cls(folder, names, tuple(paths), np.array(labels, dtype=np.int64))

    def select_images(self, index: Index) -> ClassFolders:
        """Return the images `index` as a split with the same classes."""
        return ClassFolders(self.folder, self.class_names, tuple(self.paths[i] for i in index), self.labels[index])

    @staticmethod
    def compute_splits_digest(splits: list[ClassFolders], root: Path) -> str:
        """Return the sha256 of class names, labels, and names and sizes of all files.

        It includes the contents of the files if they have at most 64 MiB together.
        """
        paths = [path for split in splits for path in split.paths]
        sizes = [_get_size_bytes(path) for path in paths]
        digest_parts: list[str | NDArray[np.generic]] = ["image_folder", *splits[0].class_names]
        digest_parts += [split.labels for split in splits]
        digest_parts += [f"{path.relative_to(root)}:{size}" for path, size in zip(paths, sizes, strict=True)]
        if sum(sizes) <= _MAX_CONTENT_BYTES:
            digest_parts += [_hash_content(path) for path, size in zip(paths, sizes, strict=True) if size > 0]
        return compute_digest(digest_parts)


def find_splits(root: Path) -> tuple[Path, Path | None]:
    """Return the folders of the training and test splits.

    The second is None if there is no test folder; then the caller holds out a part of the first.
    """
    if not root.exists():
        raise DataError(f"{root}: there is no such folder", "set data.root to the folder of your images")
    if not root.is_dir():
        raise DataError(f"{root}: is not a folder", "set data.root to the folder of your images")
    if not _list_entries(root):
        raise DataError(f"{root}: the folder is empty", _LAYOUT_HINT)
    if not (root / "train").is_dir():
        return root, None
    return root / "train", next((root / name for name in ("test", "val") if (root / name).is_dir()), None)


def check_same_classes(train: ClassFolders, test: ClassFolders) -> None:
    """Raise DataError if the splits differ in their classes, and name the difference."""
    if train.class_names == test.class_names:
        return
    only_train = sorted(set(train.class_names) - set(test.class_names))
    only_test = sorted(set(test.class_names) - set(train.class_names))
    folder_classes = [(train.folder, only_train), (test.folder, only_test)]
    difference_text = "; ".join(
        f"only in {folder}: {', '.join(names[:5])}" for folder, names in folder_classes if names
    )
    raise DataError(f"the splits have different classes: {difference_text}", "give both splits the same class folders")


def warn_of_shared_images(train: ClassFolders, test: ClassFolders) -> None:
    """Warn if test images are training images too.

    An image is shared if it is the same file, or has the same name and the same bytes.
    """
    train_identities = {_get_file_identity(path) for path in train.paths}
    train_path_by_name = {(path.name, _get_size_bytes(path)): path for path in train.paths}
    shared_paths = []
    for path in test.paths:
        twin = train_path_by_name.get((path.name, _get_size_bytes(path)))
        if _get_file_identity(path) in train_identities or (
            twin is not None and _hash_content(path) == _hash_content(twin)
        ):
            shared_paths.append(path)
    if shared_paths:
        warn_user(
            f"{len(shared_paths)} of {len(test.paths)} test images are training images too, such as {shared_paths[0]}: "
            "the test metrics will be too good"
        )


def format_folder_name(name: str) -> str:
    """Return a folder's name as text that can be written to any file.

    Bytes that are not UTF-8 are replaced.
    """
    return os.fsencode(name).decode("utf-8", "replace")


def _list_entries(folder: Path) -> list[Path]:
    """Return the entries of `folder`, sorted by name, without hidden ones."""
    try:
        return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})", f"run: chmod u+rx '{folder}'") from None


def _find_images(folder: Path, parent_folders: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield the files with an image suffix in `folder` and below.

    A folder to which a symbolic link leads back is not entered again.
    """
    real_folder = os.path.realpath(folder)
    if real_folder in parent_folders:
        return
    for path in _list_entries(folder):
        if path.is_dir():
            yield from _find_images(path, parent_folders | {real_folder})
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield path


def _get_size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _get_file_identity(path: Path) -> tuple[int, int] | Path:
    try:
        status = path.stat()
        return status.st_dev, status.st_ino
    except OSError:
        return path


def _hash_content(path: Path) -> str:
    """Return the sha256 of a regular file's bytes; "" if it cannot be read."""
    try:
        check_regular_file(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (DataError, OSError):
        return ""
