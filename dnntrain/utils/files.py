"""Write files atomically: write beside, fsync, rename, fsync the folder."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MAX_JSON_DEPTH = 64

#: A folder that holds one of these is a run directory.
MARKER_FILES = ("config.yaml", "metrics.jsonl", "result.json", "plan.json")


_LEFTOVER = re.compile(r"\..+\.tmp-\d+")


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically. Raises OSError; the old file is then intact."""
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_bytes(path, text.encode("utf-8", errors="surrogateescape"))


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (no NaN), indented, atomically."""
    write_text(path, json.dumps(to_strict_json(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` on a temporary file, then rename it to `path`.

    The temporary file is beside `path`. Both are synced to disk.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        write(temporary)
        sync_to_disk(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_to_disk(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed calls of `write_atomically` left in `folder`.

    The caller holds the lock of the folder, so that no other process writes there.
    """
    for path in folder.glob(".*.tmp-*"):
        if _LEFTOVER.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def sync_to_disk(path: Path) -> None:
    """Flush a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_strict_json(value: Any) -> Any:
    """Return `value` as strict JSON.

    Non-finite numbers become strings ("nan", "inf", "-inf"), paths become text.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): to_strict_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_strict_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def parse_json(text: str | bytes, **options: Any) -> Any:
    """Return the value in JSON text, which may be damaged or hostile.

    Raises ValueError for all that can be wrong: the syntax, bytes that are not UTF-8, numbers of
    thousands of digits, and nesting that is too deep.
    """
    try:
        value = json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    """Raise ValueError if a JSON value is nested deeper than code that walks through it can go."""
    level = [value]
    for _ in range(_MAX_JSON_DEPTH):
        level = [
            item
            for container in level
            if isinstance(container, (dict, list))
            for item in (container.values() if isinstance(container, dict) else container)
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    It is empty if the file is missing or damaged.
    """
    try:
        value = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return dict(value) if isinstance(value, dict) else {}


def is_run_directory(path: Path) -> bool:
    """Return whether `path` is a folder that holds a file of a run."""
    try:
        return any((path / marker).is_file() for marker in MARKER_FILES)
    except OSError:
        return False
