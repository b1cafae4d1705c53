"""Reads the words of a command line as settings, by Hydra's grammar; finds every word that cannot be one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dnntrain.config.groups import GROUPS, LISTS
from dnntrain.config.safety import refused_key, refused_text, refused_value, shortened

_PLAIN_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z0-9_]\w*)*")


@dataclass(frozen=True)
class Setting:
    """One override: `sign` is "", "+", "++" or "~"; `value` is a plain value; `place` shows where it was written."""

    key: str
    value: Any
    sign: str
    place: str
    raw: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """`reg.mixup.alpha` → ("reg", "mixup", "alpha")."""
        return tuple(self.key.split("."))

    @property
    def is_group(self) -> bool:
        """True where a choice of a group is set, rather than a value."""
        return self.key in GROUPS

    @property
    def line(self) -> str:
        """The setting as an override for Hydra that sets the key whether or not it stands already."""
        return f"++{self.key}={self.raw}"


def mistake(place: str, what: str, hint: str = "") -> str:
    """One message: the place, what is wrong there, and on a second line the fix."""
    return f"{place}: {what}\n     {hint}" if hint else f"{place}: {what}"


def read_overrides(words: Sequence[str], mistakes: list[str]) -> list[Setting]:
    """The settings that `words` make; what cannot be read is added to `mistakes`."""
    settings: list[Setting] = []
    for word in words:
        setting = _read(word, mistakes)
        if setting is None:
            continue
        earlier = next((other for other in settings if other.key == setting.key), None)
        if earlier is not None:
            mistakes.append(
                mistake(setting.place, f"{setting.key} is set twice, first by {earlier.place}", "keep one of them")
            )
            continue
        settings.append(setting)
    return settings


def _read(word: str, mistakes: list[str]) -> Setting | None:
    place = shortened(word)
    if reason := refused_text(word):
        mistakes.append(mistake(place, reason))
        return None
    sign, key, raw = _split(word)
    if reason := refused_key(key):
        mistakes.append(mistake(place, reason))
        return None
    if not _PLAIN_KEY.fullmatch(key):
        plain = re.sub(r"\.+", ".", re.sub(r"[^\w.]", ".", key)).strip(".")
        example = f"{plain}={shortened(raw or 'VALUE', 40)}" if _PLAIN_KEY.fullmatch(plain) else "optim.lr=0.1"
        hint = f"write KEY=VALUE, as in {example}"
        mistakes.append(mistake(place, f"{shortened(key, 40)!r} is not a key", hint))
        return None
    if sign == "~":
        return Setting(key, None, sign, place)
    if raw is None:
        mistakes.append(mistake(place, "there is no value", f"write {sign}{key}=VALUE"))
        return None
    try:
        value, raw = _value(key, raw)
    except ValueError as error:
        mistakes.append(mistake(place, str(error)))
        return None
    if reason := refused_value(value):
        mistakes.append(mistake(place, reason))
        return None
    return Setting(key, value, sign, place, raw)


def _split(word: str) -> tuple[str, str, str | None]:
    """`+reg=[mixup]` → ("+", "reg", "[mixup]"); the value is None where there is no equals sign."""
    match = re.match(r"(\+\+|\+|~)?([^=]*)(?:=(.*))?$", word, re.S)
    assert match is not None
    return match[1] or "", match[2].strip(), match[3]


def _value(key: str, raw: str) -> tuple[Any, str]:
    """The plain value of `raw` in Hydra's grammar, and the text that Hydra reads as that value. Raises ValueError."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    try:
        override = parser.parse_override(f"{key}={raw}")
    except (HydraException, RecursionError, ValueError):
        # What the grammar cannot read and is no list, mapping or quoted text is taken as it stands: odd paths.
        if not raw or raw.lstrip()[:1] in "[{'\"":
            raise ValueError("the value cannot be read: are brackets and quotes closed?") from None
        raw = "'" + raw.replace("\\", "\\\\").replace("'", "\\'") + "'"
        try:
            override = parser.parse_override(f"{key}={raw}")
        except (HydraException, RecursionError, ValueError):
            raise ValueError("the value cannot be read; put it in quotes") from None
    if override.is_sweep_override():
        hint = f"{key}=[{raw}] for a list, or " if key in LISTS and "," in raw and "(" not in raw else ""
        raise ValueError(
            f"several values at once are a sweep\n     write {hint}dnntrain -m … to train one run for each"
        )
    value = override.value()
    if not _is_plain(value):
        raise ValueError("the value is not a plain one")
    return value, raw


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, (bool, int, float, str))
