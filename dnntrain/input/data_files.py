"""Find the files of a data set, images unless said otherwise, by their names. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from dnntrain.errors import DataError
from dnntrain.input.decode import IMAGE_SUFFIXES
from dnntrain.utils.files import is_run_directory

#: Folders that archive tools and editors leave.
_TOOL_FOLDERS = ("__MACOSX", "__pycache__", "@eaDir", "lost+found")


def find_image_files(paths: Sequence[Path], suffixes: frozenset[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Return the image files among `paths` and in folders among them, as training finds them.

    `suffixes` may be those of sounds. Raises DataError if one is missing or no image is found.
    """
    check_image_paths(paths)
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(file for file in iterate_files(path) if file.suffix.lower() in suffixes)
        else:
            files.append(path)
    if not files:
        raise DataError(
            f"no file to predict in {', '.join(map(str, paths))}", f"formats: {', '.join(sorted(suffixes))}"
        )
    return files


def check_image_paths(paths: Sequence[Path]) -> None:
    """Raise DataError if a path does not exist."""
    for path in paths:
        if not path_exists(path):
            raise DataError(f"{path} does not exist", "name image files, or folders of image files")


def path_exists(path: Path) -> bool:
    """Return whether a path exists, also as a dead link. Raises DataError if a folder on its way cannot be entered."""
    try:
        path.lstat()
        return True
    except PermissionError:
        raise DataError(
            f"{path}: cannot be reached (no permission for {path.parent})", f"run: chmod u+x '{path.parent}'"
        ) from None
    except OSError:
        return False


def list_entries(folder: Path) -> list[Path]:
    """Return the entries of `folder`, sorted by name, without hidden ones.

    Raises DataError if it cannot be listed, or if its entries cannot be opened.
    """
    try:
        entries = sorted(
            (path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name
        )
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})", f"run: chmod -R u+rX '{folder}'") from None
    if not os.access(folder, os.X_OK):
        raise DataError(f"{folder}: its files cannot be opened (no permission)", f"run: chmod -R u+rX '{folder}'")
    return entries


def find_data_files(folder: Path, deep: bool = True, suffixes: Collection[str] = IMAGE_SUFFIXES) -> Iterator[Path]:
    """Yield the files with an image suffix, or one of `suffixes`, in `folder` and, if `deep`, below.

    Links are followed, except to a folder that is being read, or one around it. Hidden files, run directories and
    folders of archive tools are skipped.
    """
    yield from (path for path in iterate_files(folder, deep) if path.suffix.lower() in suffixes)


def has_data_file(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> bool:
    """Return whether `find_data_files` finds any; a large folder is not listed for that."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_image = os.path.splitext(entry.name)[1].lower() in suffixes  # noqa: PTH122  (once for each file)
                if is_image and not entry.name.startswith(".") and entry.is_file():
                    return True
    except OSError:
        pass  # find_data_files reports it
    return next(find_data_files(folder, suffixes=suffixes), None) is not None


def iterate_files(folder: Path, deep: bool = True, parents: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield all files that `find_data_files` looks at."""
    real_folder = os.path.realpath(folder)
    if any(f"{parent}{os.sep}".startswith(f"{real_folder}{os.sep}") for parent in parents):
        return
    for path in list_entries(folder):
        if not path.is_dir():
            yield path
        elif deep and not is_skipped_folder(path):
            yield from iterate_files(path, deep, parents | {real_folder})


def is_skipped_folder(folder: Path) -> bool:
    """Return whether a folder is never data: a run directory, a folder of runs, or of an archive tool."""
    return folder.name in _TOOL_FOLDERS or is_run_directory(folder) or _holds_runs(folder)


def _holds_runs(folder: Path) -> bool:
    """Return whether a folder named as dnntrain names its runs holds run directories only."""
    if folder.name not in ("runs", "multirun", "outputs"):
        return False
    try:
        return any(is_run_directory(path) for pattern in ("*/", "*/*/", "*/*/*/") for path in folder.glob(pattern))
    except OSError:
        return False


def count_other_files(folder: Path) -> dict[str, int]:
    """Return the number of files in `folder` that are not read, by suffix, the most frequent first."""
    counts: dict[str, int] = {}
    for path in iterate_files(folder):
        if (suffix := path.suffix.lower()) not in IMAGE_SUFFIXES:
            counts[suffix or "without suffix"] = counts.get(suffix or "without suffix", 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
