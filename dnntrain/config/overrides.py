"""Read command-line arguments as overrides in Hydra's grammar, and find every invalid one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dnntrain.config.groups import GROUPS, LISTS
from dnntrain.config.safety import find_key_problem, find_text_problem, find_value_problem, shorten
from dnntrain.utils.words import get_key

_PLAIN_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z0-9_]\w*)*")


@dataclass(frozen=True)
class Override:
    """One override of a key.

    `sign` is "", "+", "++" or "~"; `value` is a plain value; `location` shows its source.
    """

    key: str
    value: Any
    sign: str
    location: str
    raw_text: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the parts of the key: `augment.mixup.alpha` → ("augment", "mixup", "alpha")."""
        return tuple(self.key.split("."))

    @property
    def is_group(self) -> bool:
        """Return whether the override sets a choice of a group, not a value."""
        return self.key in GROUPS

    @property
    def hydra_override(self) -> str:
        """Return an override for Hydra that sets the key, whether or not the key exists."""
        return f"++{self.key}={self.raw_text}"


def format_mistake(location: str, problem: str, hint: str = "") -> str:
    """Format one message: the location and the problem, with the fix on a second line."""
    return f"{location}: {problem}\n     {hint}" if hint else f"{location}: {problem}"


def sort_mistakes(mistakes: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return each mistake once, in the order of the words that they begin with; those without a word come last."""
    positions: dict[str, int] = {}
    for position, word in enumerate(words):
        positions.setdefault(get_key(word), position)
    return sorted(dict.fromkeys(mistakes), key=lambda text: positions.get(get_key(text.partition(":")[0]), len(words)))


def read_overrides(arguments: Sequence[str], mistakes: list[str]) -> list[Override]:
    """Return the overrides of `arguments`; unreadable arguments are added to `mistakes`."""
    overrides: list[Override] = []
    for argument in arguments:
        override = _parse_override(argument, mistakes)
        if override is None:
            continue
        earlier_override = next((other for other in overrides if other.key == override.key), None)
        if earlier_override is not None:
            mistakes.append(
                format_mistake(
                    override.location,
                    f"{override.key} is set twice, first by {earlier_override.location}",
                    "keep one of them",
                )
            )
            continue
        overrides.append(override)
    return overrides


def _parse_override(argument: str, mistakes: list[str]) -> Override | None:
    location = shorten(argument)
    if reason := find_text_problem(argument):
        mistakes.append(format_mistake(location, reason))
        return None
    sign, key, raw = _split_sign(argument)
    if reason := find_key_problem(key):
        mistakes.append(format_mistake(location, reason))
        return None
    if not _PLAIN_KEY.fullmatch(key):
        plain_key = re.sub(r"\.+", ".", re.sub(r"[^\w.]", ".", key)).strip(".")
        example = f"{plain_key}={shorten(raw or 'VALUE', 40)}" if _PLAIN_KEY.fullmatch(plain_key) else "optim.lr=0.1"
        hint = f"write KEY=VALUE, as in {example}"
        mistakes.append(format_mistake(location, f"{shorten(key, 40)!r} is not a key", hint))
        return None
    if sign == "~":
        return Override(key, None, sign, location)
    if raw is None:
        mistakes.append(format_mistake(location, "the value is missing", f"write {sign}{key}=VALUE"))
        return None
    try:
        value, raw = _parse_value(key, raw)
    except ValueError as error:
        mistakes.append(format_mistake(location, str(error)))
        return None
    if reason := find_value_problem(value):
        mistakes.append(format_mistake(location, reason))
        return None
    return Override(key, value, sign, location, raw)


def _split_sign(argument: str) -> tuple[str, str, str | None]:
    """Split an argument: `+augment=[mixup]` → ("+", "augment", "[mixup]").

    The value is None if the argument has no equals sign.
    """
    match = re.match(r"(\+\+|\+|~)?([^=]*)(?:=(.*))?$", argument, re.S)
    assert match is not None
    return match[1] or "", match[2].strip(), match[3]


def _parse_value(key: str, raw: str) -> tuple[Any, str]:
    """Return the plain value of `raw`, and the text that gives Hydra that value.

    `raw` is in Hydra's grammar. Raises ValueError.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    try:
        override = parser.parse_override(f"{key}={raw}")
    except (HydraException, RecursionError, ValueError):
        # Unusual paths: text outside the grammar is kept unchanged unless it begins a list, mapping or quotation.
        if not raw or raw.lstrip()[:1] in "[{'\"":
            raise ValueError("the value cannot be read: are brackets and quotes closed?") from None
        raw = "'" + raw.replace("\\", "\\\\").replace("'", "\\'") + "'"
        try:
            override = parser.parse_override(f"{key}={raw}")
        except (HydraException, RecursionError, ValueError):
            raise ValueError("the value cannot be read; put it in quotes") from None
    if override.is_sweep_override():
        hint = f"{key}=[{raw}] for a list, or " if key in LISTS and "," in raw and "(" not in raw else ""
        raise ValueError(f"several values make a sweep\n     write {hint}dnntrain -m … to train one run for each")
    value = override.value()
    if not _is_plain(value):
        raise ValueError("the value must be a plain number, text, true, false, null, list or mapping")
    return value, raw


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, (bool, int, float, str))
