"""Make settings that name a file or a folder absolute.

Absolute paths let a run be resumed from any working directory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: (group or "" for the root, key) of the settings that are paths. A method of a list has the key of its options.
_PATHS = (
    ("", "init_from"),
    ("task", "class_weights"),
    ("task", "label_weights"),
    ("data", "root"),
    ("data", "file"),
    ("data", "test_file"),
    ("data", "path"),
    ("data", "test_path"),
    ("data", "vocabulary_from"),
    ("model", "path"),
    ("model", "file"),
    ("task", "file"),
    ("optim", "file"),
    ("sched", "file"),
    ("augment.custom", "file"),
    ("distill", "teacher"),
    ("distill", "cache_dir"),
)

#: Values of such settings that are not paths.
_WORDS = ("", "none", "balanced")

#: Prefixes of a library's model in settings that also accept a path.
_LIBRARIES = ("torchvision:", "timm:")


def names_path(key: str) -> bool:
    """Return whether the value of a key, such as data.root, may be a path."""
    return tuple(key.rpartition(".")[::2]) in _PATHS


def make_paths_absolute(container: Mapping[str, Any]) -> dict[str, Any]:
    """Return `container` with absolute paths.

    `container` is a resolved configuration; its relative paths are relative to the working
    directory.
    """
    result = dict(container)
    for group, key in _PATHS:
        result = _change_value(result, [*group.split("."), key] if group else [key])
    return result


def _change_value(section: Mapping[str, Any], keys: list[str]) -> dict[str, Any]:
    """Return `section` with an absolute path in the place that `keys` lead to, if it is there."""
    name, *inner = keys
    if name not in section or (inner and not isinstance(section[name], Mapping)):
        return dict(section)
    return {**section, name: _change_value(section[name], inner) if inner else _make_absolute(section[name])}


def _get_section(container: Mapping[str, Any], group: str) -> Mapping[str, Any]:
    """Return the options of a group, or of a method of a list; empty if it is not chosen."""
    section: Any = container
    for name in group.split(".") if group else ():
        section = section.get(name, {}) if isinstance(section, Mapping) else {}
    return section if isinstance(section, Mapping) else {}


def find_paths(container: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (`distill.teacher`, value) of each setting with a path, or with a list that has one."""
    for group, key in _PATHS:
        value = _get_section(container, group).get(key)
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
