"""Write a folder of files so that it appears whole or not at all."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dnntrain.errors import ConfigError
from dnntrain.utils.files import remove_path, sync_to_disk


def _is_running(pid: str) -> bool:
    """Return whether a process with this id runs on this machine."""
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (ValueError, OSError):
        return False
    return True


@contextmanager
def atomic_output_dir(target: Path) -> Iterator[Path]:
    """Create a folder beside `target` that replaces it if the body succeeds.

    The folder is removed if the body fails. Folders beside it that killed exports left behind are
    removed too. Raises ConfigError at once if the target cannot be written or replaced.
    """
    ending = f".tmp-{socket.gethostname()}"
    temporary_dir = target.with_name(f".{target.name}{ending}-{os.getpid()}")
    pattern = re.compile(rf"\..+{re.escape(ending)}-\d+")
    for leftover in target.parent.glob(".*"):
        if not pattern.fullmatch(leftover.name):
            continue
        # A leftover with this process's own id is from an earlier process: in a container the ids
        # repeat.
        if leftover == temporary_dir or not _is_running(leftover.name.rpartition("-")[2]):
            remove_path(leftover, ignore_errors=True)
    if target.is_dir() and not os.access(target, os.W_OK | os.X_OK):
        raise ConfigError(f"path={target} cannot be replaced: its folder is read-only", "name another folder")
    try:
        temporary_dir.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"path={target} cannot be created: {error}", "name a folder that can be written") from None
    try:
        yield temporary_dir
        remove_path(target)
        temporary_dir.replace(target)
        sync_to_disk(target.parent)
    finally:
        remove_path(temporary_dir, ignore_errors=True)
