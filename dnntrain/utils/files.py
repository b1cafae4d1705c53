"""Open regular files only, and write them atomically: write beside, fsync, rename, fsync the folder.

A run directory may come from a stranger. A link in it would make the program read or overwrite
another file, and a pipe would block it. So every file of a run directory is opened here, except that
safetensors writes the tensors of a checkpoint into a folder that this process has just made.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from contextlib import suppress
from io import BufferedReader, BufferedWriter
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, TextIO, overload

from dnntrain.errors import FileKindError

#: Endings of images and of files of data sets.
_DATA_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".heic", ".avif"),
    *("-ubyte", "-ubyte.gz", ".bin", ".npy", ".npz", ".parquet", ".tfrecord", ".h5"),
)

#: A folder that holds one of these is a run directory.
MARKER_FILES = ("config.yaml", "metrics.jsonl", "result.json", "plan.json")

Mode = Literal["rb", "r", "ab", "a", "a+", "wb", "w", "xb"]

_FLAGS = {
    "r": os.O_RDONLY,
    "a": os.O_WRONLY | os.O_APPEND | os.O_CREAT,
    "a+": os.O_RDWR | os.O_APPEND | os.O_CREAT,
    "w": os.O_WRONLY | os.O_CREAT,
    "x": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
}

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


@overload
def open_file(path: Path, mode: Literal["rb"] = "rb", *, follow_links: bool = False) -> BufferedReader: ...


@overload
def open_file(path: Path, mode: Literal["ab", "wb", "xb"]) -> BufferedWriter: ...


@overload
def open_file(
    path: Path, mode: Literal["r", "a", "a+", "w"], *, encoding: str, errors: str = "strict", follow_links: bool = False
) -> TextIO: ...


def open_file(
    path: Path, mode: Mode = "rb", *, encoding: str | None = None, errors: str | None = None, follow_links: bool = False
) -> IO[Any]:
    """Open a regular file; never wait for a pipe, and never go through a link.

    follow_links  whether `path` may be a symbolic link to a regular file, as for a file that the
                  user names

    A file with several hard links is not opened for writing. Raises FileKindError for anything but
    a regular file, and OSError if it cannot be opened.
    """

    def open_descriptor(name: str, flags: int) -> int:
        return _open_descriptor(path, mode, follow_links)

    return open(path, mode, encoding=encoding, errors=errors, opener=open_descriptor)


def read_bytes(path: Path, follow_links: bool = False) -> bytes:
    """Return the content of a regular file. Raises OSError."""
    with open_file(path, follow_links=follow_links) as file:
        return file.read()


def read_text(path: Path, errors: str = "strict", follow_links: bool = False) -> str:
    """Return the content of a regular file as UTF-8. Raises OSError or UnicodeDecodeError."""
    return read_bytes(path, follow_links).decode("utf-8", errors)


def check_file(path: Path) -> None:
    """Check a file that a library will open: raise FileKindError if it exists and is not a regular file."""
    try:
        _check_is_regular(path, path.lstat())
    except FileNotFoundError:
        return


def make_folder(path: Path) -> None:
    """Create the folder `path` if it does not exist.

    Raises FileKindError if it is something else, also a link to a folder, and OSError.
    """
    with suppress(FileExistsError):
        path.mkdir()
    check_folder(path)


def check_folder(path: Path) -> None:
    """Raise FileKindError if `path` exists and is not a folder, or is a link to one."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        raise _make_kind_error(path, _KINDS.get(stat.S_IFMT(mode), "a file"))


def is_plain_folder(path: Path) -> bool:
    """Return whether `path` is a folder, and not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def remove_file(path: Path) -> None:
    """Remove a file, or a link itself, if there is one. Raises FileKindError for a folder, and OSError."""
    if is_plain_folder(path):
        raise _make_kind_error(path, "a folder")
    path.unlink(missing_ok=True)


def remove_path(path: Path, ignore_errors: bool = False) -> None:
    """Remove a folder with its content, or a link or file itself. Raises OSError."""
    if is_plain_folder(path):
        shutil.rmtree(path, ignore_errors=ignore_errors)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError:
        if not ignore_errors:
            raise


_LEFTOVER = re.compile(r"\..+\.tmp-\d+")


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically. Raises OSError; the old file is then intact.

    The temporary file is beside `path`. Both are synced to disk. A link at `path` is replaced.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    if is_plain_folder(path):
        raise _make_kind_error(path, "a folder")
    try:
        temporary.unlink(missing_ok=True)
        write_durably(temporary, data)
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError):
            name_file(error, path)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_to_disk(path.parent)


def name_file(error: OSError, path: Path) -> None:
    """Add the name of the file to an error of a call that knows its number only, such as write."""
    if error.filename is None and error.errno is not None:
        error.filename = str(path)


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file and sync it to disk. Raises OSError, also if there is one."""
    with open_file(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_bytes(path, text.encode("utf-8", errors="surrogateescape"))


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed calls of `write_bytes` left in `folder`.

    The caller holds the lock of the folder, so that no other process writes there.
    """
    for path in folder.glob(".*.tmp-*"):
        if _LEFTOVER.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def sync_to_disk(path: Path) -> None:
    """Flush a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find_data_file(folder: Path) -> Path | None:
    """Return a file of data in `folder`, or None.

    Run directories and hidden folders are left out; of a large tree, the first thousand folders are searched.
    """
    for place, folders, files in islice(os.walk(folder), 1000):
        names = [name for name in folders if not name.startswith(".") and not is_run_directory(Path(place, name))]
        folders[:] = sorted(names)
        for name in sorted(files):
            if name.lower().endswith(_DATA_SUFFIXES) and not name.startswith("."):
                return Path(place, name)
    return None


#: The file of a sweep's folder that lists its trials.
SWEEP_FILE = "sweep.json"
#: The file with the result of a cross-validation, whose runs are in fold-0, fold-1 …
FOLDS_FILE = "folds.json"
#: The files of a folder that holds runs: of a sweep, a search, a comparison, and those above.
_FOLDER_FILES = (SWEEP_FILE, FOLDS_FILE, "search.json", "prove.json", "bisect.json")


def holds_runs(path: Path) -> bool:
    """Return whether `path` is a run directory, or the folder of several runs."""
    return is_run_directory(path) or any((path / name).is_file() for name in _FOLDER_FILES)


def is_run_directory(path: Path) -> bool:
    """Return whether `path` is a folder that holds a file of a run."""
    try:
        return any((path / marker).is_file() for marker in MARKER_FILES)
    except OSError:
        return False


def _open_descriptor(path: Path, mode: Mode, follow_links: bool) -> int:
    flags = _FLAGS[mode.replace("b", "")] | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    if not follow_links:
        flags |= os.O_NOFOLLOW
    with suppress(FileNotFoundError):
        # To open a device may have an effect, so its kind is known before.
        _check_is_regular(path, path.stat(follow_symlinks=follow_links))
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise _make_kind_error(path, "a symbolic link") from None
        raise
    try:
        status = os.fstat(descriptor)
        _check_is_regular(path, status)
        if mode[0] != "r" and status.st_nlink > 1:
            raise _make_kind_error(path, f"one of {status.st_nlink} hard links to a file")
        if mode[0] == "w":
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_is_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _make_kind_error(path, _KINDS.get(stat.S_IFMT(status.st_mode), "not a regular file"))


def _make_kind_error(path: Path, kind: str) -> FileKindError:
    return FileKindError(str(path), kind, "put a regular file or folder in its place")
