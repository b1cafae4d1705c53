"""Explain an exception: an error of the user's, of the system, or a bug of dnntrain.

This is the one place that decides which exceptions are not bugs. The error boundary, the ranks of a
run and result.json all ask it.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from dnntrain.errors import CheckpointError, ConfigError, DnntrainError
from dnntrain.utils.units import format_bytes
from dnntrain.utils.user_code import explain_user_error

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_FILE_HANDLES = (errno.EMFILE, errno.ENFILE)

#: Begins the message about a lack of memory, of the machine or of a device.
NOT_ENOUGH_MEMORY = "there is not enough memory"

#: Texts of torch, of the C++ library and of the loader for failed allocations. Their types differ.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can(?:no|')t allocate memory|failed to map segment|bad_alloc|"
    r"can't start new thread|failed to allocate|unable to allocate|insufficient memory|"
    r"storage size calculation overflowed",
    re.IGNORECASE,
)
_SHARED_MEMORY = re.compile(r"/dev/shm|shared memory|torch_\d+_\d+|shm_open|insufficient shm", re.IGNORECASE)


def get_first_line(error: BaseException) -> str:
    """Return the first line of an error's text, at most 300 characters; of an error without text its type."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def explain_error(error: BaseException) -> DnntrainError | None:
    """Return the error to report for `error`, or None if it is a bug of dnntrain.

    In this order: an error of dnntrain is returned as it is; a lack of disk, memory or file handles
    is the system's; an exception from the user's code is the user's; a file that cannot be opened or
    written is named.
    """
    if isinstance(error, DnntrainError):
        return error
    if not isinstance(error, Exception):
        return None
    return explain_lack_of_resources(error) or explain_user_error(error) or _explain_file_error(error)


def explain_lack_of_resources(error: BaseException) -> DnntrainError | None:
    """Return the error to report if the system lacks disk, memory or file handles, else None."""
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number in _NO_FILE_HANDLES or "Too many open files" in text or "items of ancdata" in text:
        return ConfigError(
            f"the limit of open files is reached{_get_limit_text('RLIMIT_NOFILE')}",
            "raise it with `ulimit -n 4096`, or use fewer data.num_workers",
        )
    if number in _DISK_FULL or (number is None and "No space left on device" in text):
        return _explain_full_disk(error)
    if isinstance(error, OSError) and number == errno.EFBIG:
        place = f": {error.filename}" if error.filename else ""
        return CheckpointError(f"{error.strerror}{place}", "raise the limit of file sizes with `ulimit -f unlimited`")
    is_system_type = isinstance(error, MemoryError | RuntimeError | ImportError) or number == errno.ENOMEM
    if isinstance(error, MemoryError) or number == errno.ENOMEM or (is_system_type and _OUT_OF_MEMORY.search(text)):
        return ConfigError(
            f"{NOT_ENOUGH_MEMORY}{_describe_demand(text)}{_get_limit_text('RLIMIT_AS')}",
            "use a smaller model, train.micro_batch_size or eval.batch_size, fewer data.num_workers, "
            "or raise the limit of memory",
        )
    return None


def _describe_demand(text: str) -> str:
    """Return the size of the failed allocation, or else the first line of the error, for a message."""
    if size_match := re.search(r"allocate (\d{1,30}) bytes", text):
        return f" for {format_bytes(int(size_match[1]))}"
    line = text.strip().partition("\n")[0][:200]
    return f": {line}" if line else ""


def _explain_full_disk(error: BaseException) -> CheckpointError:
    filename = getattr(error, "filename", None)
    text = getattr(error, "strerror", None) or str(error).partition("\n")[0][:200]
    if _SHARED_MEMORY.search(f"{filename} {text}"):
        return make_full_error(text)
    place = f": {filename}" if filename else ""
    return CheckpointError(f"{text}{place}", "free some disk space, then run the same command again")


def make_full_error(reason: str) -> CheckpointError:
    """Return the error for shared memory, through which reading processes pass batches, that is full."""
    return CheckpointError(
        f"/dev/shm is full: {reason}",
        "give it more room (docker run --shm-size=1g), or use fewer data.num_workers; 0 needs none",
    )


def _explain_file_error(error: Exception) -> DnntrainError | None:
    """Return the error for a file or folder that cannot be used, named by the system call."""
    if not isinstance(error, OSError) or error.filename is None:
        return None
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else str(error.filename)
    if error.errno == errno.ENAMETOOLONG:
        return ConfigError(
            f"a path of {len(name)} characters is too long: {name[:60]}…", "name a shorter path, of at most 4095 bytes"
        )
    folder = Path(name).parent
    if error.errno == errno.ENOENT and not _is_folder(folder):
        return CheckpointError(
            f"the folder {folder} does not exist; was it removed or moved during the run?",
            "leave the run directory in place while a command uses it",
        )
    return CheckpointError(f"{name} cannot be used: {error.strerror or error}", "check the file and its permissions")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _get_limit_text(name: str) -> str:
    """Return the limit of this process as a part of a message, or an empty text if it has none."""
    try:
        import resource
    except ImportError:
        return ""
    limit = resource.getrlimit(vars(resource)[name])[0]
    if limit == resource.RLIM_INFINITY:
        return ""
    return f" (ulimit -n {limit})" if name == "RLIMIT_NOFILE" else f" (ulimit -v {limit // 1024})"
