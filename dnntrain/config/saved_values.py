"""Lay the values of a saved configuration under the overrides of a command.

A saved value holds unless the command sets its key, or replaces the choice that it is an option of.
Saved texts are data: an interpolation in one is not resolved.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dnntrain.config.groups import GROUPS, LISTS, OVERLAYS, SINGLE
from dnntrain.config.registry import Registry
from dnntrain.config.run_config import ROOT_KEYS, SECTIONS
from dnntrain.config.saved_choice import find_saved_choice
from dnntrain.config.selection import Pick
from dnntrain.errors import ConfigError

if TYPE_CHECKING:
    from dnntrain.config.validate import ValidCommandLine


def find_saved_picks(saved: Mapping[str, Any], registry: Registry) -> dict[str, Pick]:
    """Return the choices of a saved configuration, or of the groups that it has.

    They follow from the options themselves, as `decode_config` reads them. Overlays are not among
    them: their values are saved already. Raises ConfigError if it has another form.
    """
    for key in (*SECTIONS, *SINGLE, *LISTS, "choices"):
        if not isinstance(saved.get(key, {}), Mapping):
            raise ConfigError(f"{key}: {saved[key]!r} is not a mapping")
    picks: dict[str, Pick] = dict.fromkeys(OVERLAYS)
    for group in SINGLE:
        if group in saved:
            picks[group] = _find_name(group, group, saved[group], saved, registry)
    for group in LISTS:
        if group in saved:
            picks[group] = [
                _find_name(group, f"{group}.{name}", values, saved, registry) for name, values in saved[group].items()
            ]
    return picks


def apply_saved_values(
    container: Mapping[str, Any], saved: Mapping[str, Any], saved_picks: Mapping[str, Pick], line: ValidCommandLine
) -> dict[str, Any]:
    """Return a composed container, not yet resolved, with the saved values that still hold."""
    given = set(_iterate_given_keys(line))
    result = dict(container)
    for key in ROOT_KEYS:
        if key in saved and key not in given:
            result[key] = escape_interpolations(saved[key])
    for group in (*SECTIONS, *SINGLE):
        if group in saved and line.selection.picks.get(group) == saved_picks.get(group):
            result[group] = _merge(result[group], saved[group], group, given)
    for group in LISTS:
        kept_names = set(saved_picks.get(group) or ()) & set(line.selection.picks[group] or ())
        for name, values in (saved.get(group) or {}).items():
            choice = line.selection.choice_by_key.get(f"{group}.{name}")
            if choice is not None and choice.name in kept_names:
                result[group] = {**result[group], name: _merge(result[group][name], values, f"{group}.{name}", given)}
    result["choices"] = _keep_labels(result["choices"], saved, saved_picks, line)
    return result


def escape_interpolations(value: Any) -> Any:
    r"""Return `value` so that OmegaConf resolves it to the same value: `${a}` becomes `\${a}`."""
    if isinstance(value, Mapping):
        return {key: escape_interpolations(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escape_interpolations(item) for item in value]
    if isinstance(value, str) and "${" in value:
        return re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + "\\${", value)
    return value


def _find_name(group: str, key: str, values: Any, saved: Mapping[str, Any], registry: Registry) -> str:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{key}: {values!r} is not a mapping of options")
    return find_saved_choice(group, key, values, saved, registry).name


def _iterate_given_keys(line: ValidCommandLine) -> Iterator[str]:
    """Yield the keys that the overrides of a command, and the overlays in it, set."""
    yield from (override.key for override in line.overrides)
    for layer in line.selection.overlays:
        for keys, _ in layer.file.iterate_leaves():
            if keys[0] not in GROUPS or line.selection.is_in_force(layer, keys[0], keys[1] if len(keys) > 1 else None):
                yield ".".join(keys)


def _merge(composed: Mapping[str, Any], saved: Mapping[str, Any], prefix: str, given: set[str]) -> dict[str, Any]:
    kept = {
        key: escape_interpolations(value)
        for key, value in saved.items()
        if not any(f"{item}.".startswith(f"{prefix}.{key}.") for item in given)
    }
    return {**composed, **kept}


def _keep_labels(
    labels: Mapping[str, Any], saved: Mapping[str, Any], saved_picks: Mapping[str, Pick], line: ValidCommandLine
) -> dict[str, Any]:
    """Return the recorded names of the choices, which may be presets that are no longer known."""
    saved_labels = saved.get("choices") or {}
    picks = line.selection.picks
    return {
        group: saved_labels[group]
        if group in saved_labels and picks.get(group) == saved_picks.get(group, ...)
        else label
        for group, label in labels.items()
    }
