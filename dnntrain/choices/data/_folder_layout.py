"""Find the training, validation and test folders of a data set, by the names that are in use.

Kaggle, Roboflow, ultralytics, Hugging Face and torchvision write `train/`, `valid/`, `val/`,
`validation/`, `test/`, `Training/`, `Testing/`, `seg_train/`, `train_images/`, `train2017/`; an
archive may have more folders around them. Letters may be large or small.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dnntrain.errors import DataError
from dnntrain.input.data_files import (
    find_data_files,
    has_data_file,
    is_skipped_folder,
    iterate_files,
    list_entries,
    path_exists,
)
from dnntrain.input.decode import IMAGE_SUFFIXES

#: The names of the folder of each split, in lower case.
SPLIT_NAMES = {
    "train": ("train", "training", "trainset"),
    "val": ("val", "valid", "validation", "dev", "valset"),
    "test": ("test", "testing", "testset"),
}
#: Words around a split's name: `train_images`, `images_train`, `training_set`, and the year of `train2017`.
_WORDS = re.compile(r"^(?:(?:images?|imgs?|data)_)?(.*?)(?:_(?:images?|imgs?|data|set|split))?_?(?:19\d\d|20\d\d)?$")
#: Kinds of files in which other tools list labels.
_LABEL_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")

#: Prefixes such as `seg_` in `seg_train`; all parts must have the same.
_SUFFIXES = {"train": "_train", "val": "_val", "test": "_test"}


@dataclass(frozen=True)
class FileKind:
    """The files of a data set: the plural noun for messages, and their suffixes in lower case."""

    noun: str
    suffixes: Collection[str]

    @property
    def layout_hint(self) -> str:
        """The folders that such files may be put into."""
        return f"put {self.noun} in ROOT/train/CLASS/ and ROOT/test/CLASS/, or in ROOT/CLASS/"

    def find(self, folder: Path, deep: bool = True) -> Iterator[Path]:
        """Yield the files in `folder` and, if `deep`, below."""
        return find_data_files(folder, deep, self.suffixes)

    def is_in(self, folder: Path) -> bool:
        """Return whether `folder` or a folder below holds such a file."""
        return has_data_file(folder, self.suffixes)


IMAGES = FileKind("images", IMAGE_SUFFIXES)
LAYOUT_HINT = IMAGES.layout_hint


@dataclass(frozen=True)
class FolderLayout:
    """The folders of the splits; without `test`, a part of the training files is held out.

    notes  the use of each folder, and the folders that are not used
    """

    train: Path
    val: Path | None = None
    test: Path | None = None
    notes: tuple[str, ...] = ()


def find_layout(root: Path, kind: FileKind = IMAGES) -> FolderLayout:
    """Return the folders of the splits in `root`.

    Raises DataError if `root` is not a folder of such files, or if a folder may be a split or a class.
    """
    if not path_exists(root):
        raise DataError(f"{root}: there is no such folder", f"set data.root to the folder of your {kind.noun}")
    if not root.is_dir():
        raise DataError(f"{root}: is not a folder", f"set data.root to the folder of your {kind.noun}")
    if not list_entries(root):
        raise DataError(f"{root}: the folder is empty", kind.layout_hint)
    folder, notes = _enter_wrapper(root, kind)
    parts = _find_parts(folder, kind)
    if not parts:
        return FolderLayout(folder, notes=tuple(notes))
    if "train" not in parts:
        raise DataError(
            f"{folder}: has {_join(parts.values())}, but no folder for training",
            "name the training folder train, or set data.root to a folder that holds class folders only",
        )
    if others := _find_other_folders(folder, parts, kind):
        notes.append(f"{_join(others[:3])} beside the splits {'is' if len(others) == 1 else 'are'} not used")
    labeled_parts = {name: path for name, path in parts.items() if _has_class_folders(path, kind)}
    for name, path in parts.items():
        if name not in labeled_parts and any(kind.find(path)):
            if name == "train":
                raise DataError(
                    f"{path}: there is no class folder in it{_describe_label_files(path)}", kind.layout_hint
                )
            notes.append(f"{path.name}/ holds {kind.noun} without class folders, and is not used")
    train, val, test = parts["train"], labeled_parts.get("val"), labeled_parts.get("test")
    if val is not None and test is not None:
        notes.append(f"{train.name}/ for training, {val.name}/ for validation, {test.name}/ for the test")
    elif val is not None:
        notes.append(f"{val.name}/ is the test split; a part of {train.name}/ is held out for validation")
        val, test = None, val
    val, test = (None if path is None else _enter_wrapper(path, kind)[0] for path in (val, test))
    return FolderLayout(_enter_wrapper(train, kind)[0], val, test, tuple(notes))


def list_folders(folder: Path) -> list[Path]:
    """Return the folders in `folder` that may be classes."""
    return [path for path in list_entries(folder) if path.is_dir() and not is_skipped_folder(path)]


def get_class_number(path: Path, names: Sequence[str], kind: FileKind) -> int:
    """Return the number of the class of the folder `path`. Raises DataError if `names` lack it."""
    if path.name not in names:
        raise DataError(
            f"{path.parent}: the training split does not have the class {path.name}",
            f"add its {kind.noun} to the training split, or remove its folder from this one",
        )
    return names.index(path.name)


def _enter_wrapper(folder: Path, kind: FileKind) -> tuple[Path, list[str]]:
    """Return the folder inside wrapper folders, as archives have them, and a note about it.

    A wrapper holds one folder with the data, beside folders of other files, and no such file itself.
    """
    inner = folder
    while len(entries := [path for path in list_folders(inner) if _may_hold_data(path, kind)]) == 1 and not any(
        kind.find(inner, deep=False)
    ):
        inner = entries[0]
        if _find_parts(inner, kind) or (len(_list_data_folders(inner, kind)) > 1 and not _is_part(inner)):
            return inner, [f"the {kind.noun} are in {inner.relative_to(folder).as_posix()}/"]
        if _is_part(inner):
            break
    return folder, []


def _list_data_folders(folder: Path, kind: FileKind) -> list[Path]:
    return [path for path in list_folders(folder) if kind.is_in(path)]


def _may_hold_data(folder: Path, kind: FileKind) -> bool:
    """Return whether a folder holds such files, or nothing at all, as the folder of an empty class."""
    return kind.is_in(folder) or next(iterate_files(folder), None) is None


def _normalize_name(path: Path) -> str:
    """Return the name of a folder without words around that of a split."""
    name = path.name.lower().replace("-", "_").replace(" ", "_")
    match = _WORDS.match(name)
    core = match[1].rstrip("_") if match else name
    return core if any(core in names for names in SPLIT_NAMES.values()) else name


def _is_part(path: Path) -> bool:
    return any(_normalize_name(path) in names for names in SPLIT_NAMES.values())


def _describe_label_files(folder: Path) -> str:
    """Return a text about files beside the images that look like lists of labels."""
    names = [path.name for path in list_entries(folder) if path.suffix.lower() in _LABEL_SUFFIXES and path.is_file()]
    return f", and labels in {', '.join(names[:3])} are not read" if names else ""


def _find_parts(folder: Path, kind: FileKind) -> dict[str, Path]:
    """Return the folders named as splits: train, val, test."""
    folders = {path.name.lower().replace("-", "_"): path for path in list_folders(folder)}
    parts: dict[str, Path] = {}
    for part, names in SPLIT_NAMES.items():
        matches = [path for path in folders.values() if _normalize_name(path) in names]
        if len(matches) > 1:
            raise DataError(f"{folder}: {_join(matches)} may both be the {part} split", "rename or remove one of them")
        if matches:
            parts[part] = matches[0]
    if parts.keys() == {"val", "test"}:
        return parts
    if "train" in parts:
        return parts if len(parts) > 1 or not _is_class(parts["train"], folders, kind) else {}
    for name in folders:
        prefix = name.removesuffix(_SUFFIXES["train"])
        if prefix not in ("", name):
            return {part: folders[prefix + suffix] for part, suffix in _SUFFIXES.items() if prefix + suffix in folders}
    return {}


def _is_class(train: Path, folders: dict[str, Path], kind: FileKind) -> bool:
    """Return whether a folder named train is a class: it holds files itself, beside other class folders."""
    return len(folders) > 1 and not _has_class_folders(train, kind) and any(kind.find(train))


def _has_class_folders(folder: Path, kind: FileKind) -> bool:
    inner = _list_data_folders(folder, kind)
    if len(inner) == 1 and inner[0].name == folder.name and not _list_data_folders(inner[0], kind):
        return False  # test/test/1.jpg: the folder of an archive, not a class
    return any(next(kind.find(path), None) is not None for path in list_folders(folder))


def _find_other_folders(folder: Path, parts: dict[str, Path], kind: FileKind) -> list[Path]:
    """Return the folders with such files beside the splits. Raises DataError if they may be classes."""
    others = [
        path for path in list_folders(folder) if path not in parts.values() and next(kind.find(path), None) is not None
    ]
    if others and not (parts.keys() & {"val", "test"}):
        raise DataError(
            f"{folder}: {_join(parts.values())} may be a split, or a class beside {_join(others[:3])}",
            "rename the class, or move the folders that are not for training elsewhere",
        )
    return others


def _join(paths: Iterable[Path]) -> str:
    return ", ".join(f"{path.name}/" for path in paths)
