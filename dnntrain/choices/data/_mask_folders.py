"""Find images and their masks in folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dnntrain.choices.data._folder_layout import SPLIT_NAMES
from dnntrain.errors import DataError
from dnntrain.input.data_files import find_data_files, list_entries, path_exists
from dnntrain.input.decode import FORMATS, check_regular_file
from dnntrain.utils.rng import Index
from dnntrain.utils.units import pluralize

_HINT = "put images in ROOT/images/ and masks of the same names in ROOT/masks/, or both in ROOT/train/ and ROOT/val/"


@dataclass(frozen=True)
class Pairs:
    """Images [n] and the masks that belong to them; `keys` name them within the data set."""

    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    keys: tuple[str, ...]

    def select(self, index: Index) -> Pairs:
        """Return the pairs with these numbers."""
        columns = (self.images, self.masks, self.keys)
        images, masks, keys = (tuple(column[number] for number in index.tolist()) for column in columns)
        return Pairs(images, masks, keys)

    def join(self, other: Pairs) -> Pairs:
        """Return these pairs, and then those of `other`."""
        return Pairs(self.images + other.images, self.masks + other.masks, self.keys + other.keys)

    def read_sizes(self) -> list[tuple[int, int] | None]:
        """Return (width, height) of each image as it is seen, from its header; None if it is damaged."""
        return [_read_size(path) for path in self.images]


def find_pairs(root: Path) -> dict[str, Pairs]:
    """Return the pairs of "train", and of "val" and "test" if they exist.

    Raises DataError, which names the folder or file, if a folder is missing, or an image without mask.
    """
    if not path_exists(root) or not root.is_dir():
        raise DataError(f"{root}: there is no such folder", "set data.root to the folder of your images")
    folders: dict[str, tuple[Path, Path]] = {}
    names = sorted({path.name for folder in (root, root / "images") for path in _list_folders(folder)})
    for split, known_names in SPLIT_NAMES.items():
        for name in (name for name in names if name.lower() in known_names):
            for images, masks in (
                (root / name / "images", root / name / "masks"),
                (root / "images" / name, root / "masks" / name),
            ):
                if images.is_dir():
                    folders[split] = (images, masks)
    if not folders:
        folders["train"] = (root / "images", root / "masks")
    if "train" not in folders:
        raise DataError(f"{root}: has {' and '.join(folders)}, but no folder train", _HINT)
    return {split: _list_pairs(root, *pair) for split, pair in folders.items()}


def _list_folders(folder: Path) -> list[Path]:
    return [path for path in list_entries(folder) if path.is_dir()] if folder.is_dir() else []


def _list_pairs(root: Path, images: Path, masks: Path) -> Pairs:
    for folder in (images, masks):
        if not folder.is_dir():
            raise DataError(f"{folder}: there is no such folder", _HINT)
    mask_by_stem: dict[str, Path] = {}
    for path in sorted(find_data_files(masks)):
        stem = _name(path, masks)
        if stem in mask_by_stem:
            raise DataError(f"{path}: {mask_by_stem[stem].name} is a mask of the same name", "keep one of them")
        mask_by_stem[stem] = path
    paths = sorted(find_data_files(images))
    if not paths:
        raise DataError(f"{images}: holds no image", _HINT)
    if missing := [path for path in paths if _name(path, images) not in mask_by_stem]:
        raise DataError(
            f"{missing[0]}: has no mask {masks / _name(missing[0], images)}.png "
            f"({pluralize(len(missing), 'image')} of {len(paths)} without mask)",
            "a mask has the name of its image, with any suffix of an image",
        )
    names = [_name(path, images) for path in paths]
    _check_names(paths, names)
    return Pairs(
        tuple(paths),
        tuple(mask_by_stem[name] for name in names),
        tuple(path.relative_to(root).as_posix() for path in paths),
    )


def _check_names(paths: Sequence[Path], names: Sequence[str]) -> None:
    seen: dict[str, Path] = {}
    for path, name in zip(paths, names, strict=True):
        if name in seen:
            raise DataError(
                f"{path}: {seen[name].name} is an image of the same name", "give each its own name and mask"
            )
        seen[name] = path


def _name(path: Path, folder: Path) -> str:
    """Return the path within the folder without its suffix."""
    return path.relative_to(folder).with_suffix("").as_posix()


def _read_size(path: Path) -> tuple[int, int] | None:
    from PIL import ExifTags, Image

    try:
        check_regular_file(path)
        with Image.open(path, formats=FORMATS) as file:
            width, height = file.size
            is_turned = file.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except Exception:  # the error is reported, or the image skipped, when the image is decoded
        return None
    return (height, width) if is_turned else (width, height)
