"""Write the settings of a stage as words of a command line, and merge several sources of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dnntrain.config.groups import GROUPS
from dnntrain.config.yaml_io import iterate_leaves
from dnntrain.utils.words import get_key

#: Text that needs no quotes in Hydra's grammar of overrides.
_PLAIN = re.compile(r"[A-Za-z_./][\w./%-]*|\d[\w.%-]*")


def format_settings(values: Mapping[str, Any]) -> list[str]:
    """Return one word for each value; keys may be nested or dotted: `train: {duration: 1ep}`."""
    return [f"{'.'.join(keys)}={format_value(value)}" for keys, value in iterate_leaves(dict(values))]


def format_value(value: Any) -> str:
    """Return a value as it is typed behind `KEY=`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(format_value, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{format_value(item)}' for key, item in value.items())}}}"
    text = str(value)
    if not isinstance(value, str) or _PLAIN.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def merge_words(layers: Iterable[Sequence[str]]) -> list[str]:
    """Return the words of all layers; a later layer replaces the values of earlier ones.

    If it names another choice of a group, the options of the replaced choice go with it.
    """
    merged: list[str] = []
    for layer in layers:
        for word in layer:
            key = get_key(word)
            is_appended = word.startswith("+") and key in GROUPS and not GROUPS[key].single
            if not is_appended:
                merged = [other for other in merged if not _is_replaced(other, word, key, layer)]
            merged.append(word)
    return merged


def _is_replaced(other: str, word: str, key: str, layer: Sequence[str]) -> bool:
    other_key = get_key(other)
    if other_key == key:
        return True
    if key not in GROUPS or GROUPS[key].overlay or other in layer or not other_key.startswith(f"{key}."):
        return False
    value = word.partition("=")[2]
    # Options of a list's choice stay if the list still names it.
    return GROUPS[key].single or other_key.split(".")[1] not in re.split(r"[\[\], ]", value)


def select_words(words: Iterable[str], groups: Sequence[str]) -> list[str]:
    """Return the words that set a group of `groups` or one of its options."""
    return [word for word in words if get_key(word).split(".")[0] in groups]
