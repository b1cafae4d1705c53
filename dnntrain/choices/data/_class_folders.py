"""Search and checks of a folder that holds one folder for each class."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnntrain.choices.data._folder_layout import LAYOUT_HINT
from dnntrain.errors import DataError
from dnntrain.input.data_files import count_other_files, find_data_files, has_data_file, is_skipped_folder, list_entries
from dnntrain.input.decode import IMAGE_SUFFIXES, check_regular_file
from dnntrain.input.source import compute_digest
from dnntrain.input.split import hold_out_by_name
from dnntrain.utils.messages import warn_user
from dnntrain.utils.rng import Index, Key
from dnntrain.utils.units import pluralize

#: Up to this many bytes, the digest of a folder covers the contents of its files; above, their names and sizes.
_MAX_CONTENT_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ClassFolders:
    """The files of one split, class by class in alphabetical order, sorted within each.

    `keys` decide which files are held out: the path of each below the folder of its split.
    """

    folder: Path
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    keys: tuple[str, ...]

    @classmethod
    def list_files(
        cls, folder: Path, class_names: tuple[str, ...], paths: Sequence[Path], labels: Sequence[int]
    ) -> ClassFolders:
        """Return the split with these files below `folder`."""
        keys = tuple(os.fsencode(path.relative_to(folder).as_posix()).hex() for path in paths)
        return cls(folder, class_names, tuple(paths), np.array(labels, dtype=np.int64), keys)

    @classmethod
    def scan(cls, folder: Path, strict: bool, class_names: tuple[str, ...] = (), min_classes: int = 2) -> ClassFolders:
        """Return the split in `folder`, with the classes `class_names` of the training split if given.

        Raises DataError if there are fewer than `min_classes`, or none with `class_names`, a class without images, or a class that
        the training split does not have; if `strict`, also for an empty file.
        """
        classes = find_class_folders(folder, 1 if class_names else min_classes)
        names = tuple(format_folder_name(path.name) for path in classes)
        if class_names and (unknown := [name for name in names if name not in class_names]):
            raise DataError(
                f"{folder}: the training split does not have these classes: {', '.join(unknown[:5])}",
                "add their images to the training split, or remove their folders from this one",
            )
        numbers = {name: number for number, name in enumerate(class_names or names)}
        paths: list[Path] = []
        labels: list[int] = []
        for name, class_folder in zip(names, classes, strict=True):
            class_images = sorted(find_data_files(class_folder))
            paths += class_images
            labels += [numbers[name]] * len(class_images)
        if strict:
            for path in paths:
                check_regular_file(path)
        return cls.list_files(folder, class_names or names, paths, labels)

    def join_validation(self, val: ClassFolders | None) -> tuple[ClassFolders, Index | None]:
        """Return the files of both splits, those of `val` last, and the numbers of those of `val`."""
        if val is None:
            return self, None
        labels = np.concatenate([self.labels, val.labels])
        joined = replace(self, paths=self.paths + val.paths, labels=labels, keys=self.keys + val.keys)
        return joined, np.arange(len(self.paths), len(joined.paths))

    def hold_out_test(self, fraction: float, key: Key) -> tuple[ClassFolders, ClassFolders]:
        """Return the training and test files of a folder without a test split.

        Raises DataError if `fraction` selects no file.
        """
        train_index, test_index = hold_out_by_name(self.keys, self.labels, fraction, key)
        if len(test_index) == 0:
            raise DataError(
                f"{self.folder}: data.test_fraction={fraction:g} selects none of its {len(self.paths)} files",
                "set a larger data.test_fraction, or put test files in ROOT/test/CLASS/",
            )
        return self._select(train_index), self._select(test_index)

    def _select(self, index: Index) -> ClassFolders:
        paths, keys = (tuple(column[number] for number in index.tolist()) for column in (self.paths, self.keys))
        return replace(self, paths=paths, labels=self.labels[index], keys=keys)

    @staticmethod
    def compute_splits_digest(splits: list[ClassFolders], root: Path) -> str:
        """Return the sha256 of class names, labels, and names and sizes of all files.

        It includes the contents of the files if they have at most 64 MiB together.
        """
        paths = [path for split in splits for path in split.paths]
        labels = [split.labels for split in splits]
        return compute_digest(["image_folder", *splits[0].class_names, *labels, *describe_files(paths, root)])


def describe_files(paths: Sequence[Path], root: Path) -> list[str]:
    """Return names and sizes of files below `root`, then the hashes of at most 64 MiB of contents, for a digest."""
    sizes = [_get_size_bytes(path) for path in paths]
    parts = [f"{path.relative_to(root)}:{size}" for path, size in zip(paths, sizes, strict=True)]
    if sum(sizes) <= _MAX_CONTENT_BYTES:
        parts += [_hash_content(path) for path, size in zip(paths, sizes, strict=True) if size > 0]
    return parts


def find_class_folders(folder: Path, min_classes: int) -> list[Path]:
    """Return the class folders of a split, in alphabetical order.

    Raises DataError if there are fewer than `min_classes`, or a class without images.
    """
    classes = [path for path in list_entries(folder) if path.is_dir() and not is_skipped_folder(path)]
    if not classes:
        raise DataError(f"{folder}: there is no class folder in it", LAYOUT_HINT)
    if len(classes) < min_classes:
        name = format_folder_name(classes[0].name)
        raise DataError(f"{folder}: holds only one class ({name}); at least 2 are needed", LAYOUT_HINT)
    for class_folder in classes:
        if not has_data_file(class_folder):
            raise DataError(
                f"{class_folder}: class {format_folder_name(class_folder.name)} has no images",
                f"add files of the kinds {', '.join(sorted(IMAGE_SUFFIXES))}, or remove the folder",
            )
    return classes


def check_nesting(folder: Path) -> list[str]:
    """Return notes about images and folders whose place may not be meant.

    Raises DataError if a class folder is a copy of the others: Kaggle's archives hold such copies.
    """
    classes = find_class_folders(folder, 1)
    notes: list[str] = []
    if loose := [path.name for path in find_data_files(folder, deep=False)]:
        count = len(loose)
        notes.append(f"{pluralize(count, 'image')} beside the class folders {'is' if count == 1 else 'are'} not used")
    inner = {path: _list_inner_folders(path) for path in classes}
    for path, names in inner.items():
        if len(names) > 1 and names <= {other.name for other in classes if other != path}:
            raise DataError(
                f"{path}: holds folders named as the classes beside it ({', '.join(sorted(names)[:5])}), "
                "so it is a copy of the data and not a class",
                f"remove or move {path.name}/, or set data.root to it",
            )
    first = next(iter(inner.values()))
    if len(classes) > 1 and len(first) > 1 and all(names == first for names in inner.values()):
        notes.append(
            f"all class folders hold the same folders ({', '.join(sorted(first)[:5])}): the outer folder is the class"
        )
    return notes


def _list_inner_folders(folder: Path) -> set[str]:
    """Return the names of the folders in a class folder that holds no image itself."""
    if any(find_data_files(folder, deep=False)):
        return set()
    return {path.name for path in list_entries(folder) if path.is_dir() and has_data_file(path)}


def note_missing_classes(name: str, split: ClassFolders, noun: str = "image") -> list[str]:
    """Return a note about classes of which a split has no image, or file called `noun`."""
    missing = [
        split.class_names[number] for number in sorted({*range(len(split.class_names))} - {*split.labels.tolist()})
    ]
    if not missing:
        return []
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    return [f"the {name} split has no {noun} of {', '.join(missing[:5])}{more}"]


def note_other_files(folders: Iterable[Path]) -> list[str]:
    """Return a note that counts the files that are not read."""
    counts: Counter[str] = Counter()
    for folder in folders:
        counts.update(count_other_files(folder))
    if not counts:
        return []
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(5))
    return [f"{sum(counts.values())} files of other kinds are not read: {kinds}"]


def warn_of_shared_images(train: ClassFolders, test: ClassFolders, nouns: str = "images") -> None:
    """Warn if test images, or files called `nouns`, are training ones too.

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
            f"{len(shared_paths)} of {len(test.paths)} test {nouns} are training {nouns} too, such as {shared_paths[0]}: "
            "the test metrics will be too good"
        )


def format_folder_name(name: str) -> str:
    """Return a folder's name as text that can be written to any file.

    Bytes that are not UTF-8 are replaced.
    """
    return os.fsencode(name).decode("utf-8", "replace")


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
