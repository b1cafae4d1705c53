"""List the changes that turn the configuration of one run into that of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dnntrain.config.groups import LISTS, SINGLE
from dnntrain.config.python_settings import format_settings
from dnntrain.config.yaml_io import iterate_leaves

#: Keys that name the run or its surroundings, or are paired, and cannot lose a metric.
_UNCOMPARED = frozenset(
    {
        "name",
        "run_dir",
        "resume",
        "choices",
        "seed",
        "log",
        "track",
        "launch",
        "cluster",
        "device",
        "experiment",
        "debug",
    }
)


@dataclass(frozen=True)
class Change:
    """One change: a setting, or another choice of a group with its options.

    words    the overrides
    group    the group of a list from which `choice` is removed, or to which it is added
    """

    words: tuple[str, ...]
    group: str = ""
    choice: str = ""
    is_added: bool = False

    @property
    def text(self) -> str:
        """The change as it is shown."""
        if not self.group:
            return " ".join(self.words)
        return " ".join((f"{'with' if self.is_added else 'without'} {self.group}.{self.choice}", *self.words))


def list_changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Change]:
    """Return the changes from the resolved configuration `first` to `second`, in the order of the keys."""
    changes: list[Change] = []
    for key in dict.fromkeys((*first, *second)):
        if key in _UNCOMPARED:
            continue
        old, new = first.get(key), second.get(key)
        if key in LISTS:
            changes += _list_method_changes(key, first, second)
        elif key in SINGLE and first["choices"].get(key) != second["choices"].get(key):
            options = {name: value for name, value in (new or {}).items() if name != "name"}
            changes.append(Change((f"{key}={second['choices'][key]}", *_format_options(key, options))))
        else:
            changes += _list_option_changes(key, old, new)
    return changes


def make_words(first: Mapping[str, Any], changes: Sequence[Change]) -> tuple[str, ...]:
    """Return the overrides that make `changes` to the configuration `first`."""
    lists: dict[str, list[str]] = {}
    for change in changes:
        if change.group:
            names = lists.setdefault(change.group, list(first["choices"][change.group]))
            if change.is_added:
                names.append(change.choice)
            else:
                names.remove(change.choice)
    list_words = [f"{group}=[{','.join(names)}]" for group, names in lists.items()]
    # A choice comes before its options, and before options of the same group.
    words = [word for change in changes for word in change.words]
    return (*list_words, *sorted(words, key=lambda word: "." in word.partition("=")[0]))


def _list_method_changes(group: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Change]:
    """Yield the methods that are removed and added, and the options of the others that differ."""
    old_names, new_names = first["choices"][group], second["choices"][group]
    for name in old_names:
        if name not in new_names:
            yield Change((), group, name)
    for name in new_names:
        options = second[group].get(name, {})
        if name in old_names:
            yield from _list_option_changes(f"{group}.{name}", first[group].get(name), options)
        else:
            settings = {key: value for key, value in options.items() if key != "name"}
            yield Change(_format_options(f"{group}.{name}", settings), group, name, is_added=True)


def _list_option_changes(key: str, old: Any, new: Any) -> Iterator[Change]:
    """Yield a change for each value below `key` that differs."""
    old_leaves, new_leaves = _flatten(key, old), _flatten(key, new)
    for name, value in new_leaves.items():
        if name not in old_leaves or old_leaves[name] != value:
            yield Change(tuple(format_settings({name: value})))


def _format_options(key: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(format_settings(_flatten(key, dict(options))))


def _flatten(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {key: value}
    return {".".join((key, *keys)): item for keys, item in iterate_leaves(value) if item != {}}
