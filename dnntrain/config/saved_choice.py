"""Find the choice that built the options of a saved configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dnntrain.config.registry import Choice, Registry
from dnntrain.errors import ConfigError


def find_saved_choice(
    group: str, key: str, values: Mapping[str, Any], container: Mapping[str, Any], registry: Registry
) -> Choice:
    """Return the choice that built `values`, the options at `key` of `container`.

    The choice is the one recorded in `choices` if it is still known, else the one named by `name`.
    A preset that is no longer known, of a choice with an option `name`, is found by its options.
    Raises ConfigError if there is none.
    """
    recorded_names = container.get("choices")
    recorded_names = recorded_names.get(group) if isinstance(recorded_names, Mapping) else None
    name = values.get("name")
    for candidate in recorded_names if isinstance(recorded_names, list) else [recorded_names]:
        if not isinstance(candidate, str) or candidate not in registry.list_names(group):
            continue
        choice = registry.get_choice(group, candidate)
        if choice.key == key and (choice.base == name or "name" in choice.schema.fields):
            return choice
    named = registry.get_choice(group, name) if name in registry.list_names(group) else None
    has_options = named is not None and {"name", *named.schema.fields} == {"name", *values}
    if not has_options and (match := _find_choice_by_options(group, key, values, registry)):
        return match
    if not isinstance(name, str):
        raise ConfigError(f"{key}.name: {name!r} does not name a choice of {group}")
    choice = named or registry.get_choice(group, name)
    if choice.key != key or choice.base != name:
        raise ConfigError(f"{key}.name: {name} does not match the recorded choice; it must be {choice.base}")
    return choice


def _find_choice_by_options(group: str, key: str, values: Mapping[str, Any], registry: Registry) -> Choice | None:
    """Return the only choice with the options of `values`, `name` among them, or None."""
    matches = [
        choice
        for choice in registry.get_choices(group).values()
        if choice.name == choice.base and choice.key == key and "name" in choice.schema.fields
        if choice.schema.fields.keys() == values.keys()
    ]
    return matches[0] if len(matches) == 1 else None
