"""Make settings that name a file or a folder absolute.

Absolute paths let a run be resumed from any working directory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: (group or "" for the root, key) of the settings that are paths.
_PATHS = (
    ("", "init_from"),
    ("task", "class_weights"),
    ("task", "label_weights"),
    ("data", "root"),
    ("data", "file"),
    ("data", "test_file"),
    ("model", "file"),
    ("distill", "teacher"),
    ("distill", "cache_dir"),
)

#: Values of such settings that are not paths.
_WORDS = ("", "none", "balanced")

#: Prefixes of a library's model in settings that also accept a path.
_LIBRARIES = ("torchvision:", "timm:")


def make_paths_absolute(container: Mapping[str, Any]) -> dict[str, Any]:
    """Return `container` with absolute paths.

    `container` is a resolved configuration; its relative paths are relative to the working
    directory.
    """
    result = dict(container)
    for group, key in _PATHS:
        section = result.get(group) if group else result
        if isinstance(section, Mapping) and key in section:
            absolute = _make_absolute(section[key])
            result = {**result, group: {**section, key: absolute}} if group else {**result, key: absolute}
    return result


def find_paths(container: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (`distill.teacher`, value) of each setting with a path, or with a list that has one."""
    for group, key in _PATHS:
        section = container.get(group, {}) if group else container
        value = section.get(key)
        if any(map(is_path, value if isinstance(value, list) else [value])):
            yield f"{group}.{key}".lstrip("."), value


def is_path(value: Any) -> bool:
    """Return whether the value of such a setting is a path, and not a library's model."""
    return isinstance(value, str) and value not in _WORDS and not value.startswith(_LIBRARIES)


def _make_absolute(value: Any) -> Any:
    if isinstance(value, list):
        return [_make_absolute(item) for item in value]
    if not is_path(value):
        return value
    try:
        return str(Path(value).expanduser().absolute())
    except (OSError, RuntimeError):  # no working directory, no such user: the reader of the path reports it
        return value
