"""Settings that are a verb's own, picked out of the overrides of a command line."""

from __future__ import annotations

from collections.abc import Sequence

from dnntrain.config.groups import GROUPS
from dnntrain.config.key_table import get_root_fields
from dnntrain.config.run_config import SECTIONS
from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import find_nearest


def split_command_options(overrides: Sequence[str], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """(values of the verb's own settings, the other words). The last of several values stands.

    Raises ConfigError for a word that is no key of a configuration and looks like one of `names`.
    """
    keys = [*names, *GROUPS, *SECTIONS, *get_root_fields()]
    options: dict[str, str] = {}
    overrides_left = []
    for word in overrides:
        name, equals, value = word.partition("=")
        if equals and name.lstrip("+") in names:
            options[name.lstrip("+")] = value
        elif equals and "." not in name and name not in keys and (suggestion := find_nearest(name, keys)) in names:
            raise ConfigError(f"{word}: there is no setting {name!r}", f"did you mean {suggestion!r}?")
        else:
            overrides_left.append(word)
    return options, overrides_left


def get_flag(options: dict[str, str], name: str) -> bool:
    """A setting that is true or false, false where it is not given."""
    value = options.get(name, "false").lower()
    if value not in ("true", "false"):
        raise ConfigError(f"{name}={options[name]} is neither true nor false", f"use {name}=true")
    return value == "true"


def get_int(options: dict[str, str], name: str, default: int | None, at_least: int = 1) -> int | None:
    """A setting that is a whole number."""
    if name not in options:
        return default
    try:
        value = int(options[name])
    except ValueError:
        value = at_least - 1
    if value < at_least:
        raise ConfigError(
            f"{name}={options[name]} is no whole number of at least {at_least}", f"as in {name}={at_least}"
        )
    return value


def get_int_list(options: dict[str, str], name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """A setting that is a list of whole numbers above 0, as in 1,64: ascending, each once."""
    if name not in options:
        return default
    items = options[name].strip("[]").split(",")
    try:
        values = sorted({int(item) for item in items})
    except ValueError:
        values = [0]
    if values[0] < 1:
        raise ConfigError(f"{name}={options[name]} is no list of whole numbers above 0", f"as in {name}=1,64")
    return tuple(values)
