"""Find the choice of each group from the YAML files alone.

The order is Hydra's order: the root's defaults list, then the experiment, then debug, then the
command line. The overlays in the defaults list of an experiment or of debug apply before it.
`+reg=[x]` appends to the choices made by then.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dnntrain.config.groups import GROUPS, LISTS, OVERLAYS, SINGLE
from dnntrain.config.overrides import Override, format_mistake
from dnntrain.config.registry import Choice, Registry
from dnntrain.config.selection import Overlay, Pick, Selection
from dnntrain.config.yaml_io import format_path, read_yaml
from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import did_you_mean, find_nearest

if TYPE_CHECKING:
    from dnntrain.config.translate import Translator


def select_choices(
    registry: Registry,
    overrides: Sequence[Override],
    mistakes: list[str],
    saved_picks: Mapping[str, Pick] | None = None,
    make_translator: Callable[[Registry], Translator] | None = None,
) -> Selection:
    """Return the selection that `overrides` make.

    `saved_picks` are those of a saved configuration, which the overrides change. An unknown choice is
    added to `mistakes`; the nearest known choice replaces it for further checks. With
    `make_translator`, the hint for an unknown choice is the line that it means, if there is one.
    """
    root_picks = _read_root_picks(registry, mistakes)
    selection = Selection({**root_picks, **(saved_picks or {})})
    override_by_group = {override.key: override for override in overrides if override.is_group}
    for group in OVERLAYS:
        if group in override_by_group:
            selection.picks[group] = _get_overlay_pick(override_by_group[group], mistakes)
        name = selection.picks[group]
        if isinstance(name, str):
            location = override_by_group[group].location if group in override_by_group else format_path(registry.root)
            _apply_overlay(registry, group, name, location, selection, mistakes, parents=())
    for groups in (SINGLE, LISTS):
        if groups == LISTS:
            _leave_out_unmet_defaults(registry, root_picks, selection)
        for group, override in override_by_group.items():
            if group in groups:
                _apply_group_override(selection.picks, override, mistakes)
    locations = {group: override_by_group[group].location if group in override_by_group else "" for group in GROUPS}
    for group in (*SINGLE, *LISTS):
        _resolve_picks(registry, group, locations[group], selection, mistakes, make_translator)
    return selection


def _read_root_picks(registry: Registry, mistakes: list[str]) -> dict[str, Pick]:
    picks: dict[str, Pick] = {group: None if GROUPS[group].single else [] for group in GROUPS}
    root = read_yaml(registry.root)
    for entry in root.defaults:
        if entry == "_self_":
            continue
        if not isinstance(entry, dict) or len(entry) != 1 or next(iter(entry)) not in GROUPS:
            mistakes.append(format_mistake(root.get_location(("defaults",)), f"{entry!r} must be `GROUP: CHOICE`"))
            continue
        ((group, pick),) = entry.items()
        picks[group] = list(pick or ()) if group in LISTS else pick
    return picks


def _leave_out_unmet_defaults(registry: Registry, root_picks: Mapping[str, Pick], selection: Selection) -> None:
    """Leave out the methods of the root's lists whose needs the task or the data does not meet.

    A list that an overlay or a saved configuration sets is left as it is.
    """
    features: frozenset[str] = frozenset()
    for group in _FEATURE_GROUPS:
        declared = _read_feature_set(registry, group, selection.picks[group], "features")
        if declared is None:
            return
        features |= declared
    for group in LISTS:
        names = selection.picks[group]
        if isinstance(names, list) and names is root_picks[group]:
            needs = {name: _read_feature_set(registry, group, name, "needs") or frozenset() for name in names}
            selection.picks[group] = [name for name in names if needs[name] <= features]


#: The groups that have features which methods need, and the features of a choice that declares none.
_FEATURE_GROUPS: dict[str, tuple[str, ...]] = {"task": (), "data": ("DataFeature.IMAGES",)}


def _read_feature_set(registry: Registry, group: str, name: Pick, variable: str) -> frozenset[str] | None:
    """Return a set of features that a choice declares; None if the choice cannot be used."""
    try:
        schema = registry.get_choice(group, name).schema if isinstance(name, str) else None
    except ConfigError:
        return None
    if schema is None:
        return None
    names = schema.constants.get(variable, _FEATURE_GROUPS.get(group, ()))
    return frozenset(name for name in names if name.partition(".")[0].endswith("Feature"))


def _get_overlay_pick(override: Override, mistakes: list[str]) -> str | None:
    if override.sign == "~" or override.value is None:
        return None
    if isinstance(override.value, str) and override.value:
        return override.value
    mistakes.append(format_mistake(override.location, f"{override.key} must be the name of one choice, or null"))
    return None


def _apply_overlay(
    registry: Registry,
    group: str,
    name: str,
    location: str,
    selection: Selection,
    mistakes: list[str],
    parents: tuple[str, ...],
) -> None:
    if name in parents:
        mistakes.append(format_mistake(location, f"the overlays {', '.join((*parents, name))} refer to each other"))
        return
    try:
        file = registry.get_choice(group, name).chain[-1]
    except ConfigError as error:
        mistakes.append(str(error).replace("\n  ", "\n     "))
        return
    if file.package != "_global_":
        hint = f"begin {format_path(file.path)} with the line: # @package _global_"
        mistakes.append(format_mistake(f"{group}={name}", "an overlay must set keys of the whole configuration", hint))
    defaults_location = file.get_location(("defaults",))
    if "_self_" in file.defaults and file.defaults[-1] != "_self_":
        mistakes.append(
            format_mistake(defaults_location, "_self_ must be the last entry", "move it to the end, or leave it out")
        )
    for entry in file.defaults:
        nested, override = _parse_overlay_entry(entry, group)
        if nested is not None and nested != "_self_":
            _apply_overlay(registry, group, nested, defaults_location, selection, mistakes, (*parents, name))
        elif override is not None:
            target, value = override
            _apply_group_override(
                selection.picks, Override(target, value, "", f"{defaults_location}: override /{target}"), mistakes
            )
        elif nested is None:
            hint = "write `- override /GROUP: CHOICE`, `- OTHER_OVERLAY` or `- _self_`"
            mistakes.append(
                format_mistake(defaults_location, f"the defaults list does not support the entry {entry!r}", hint)
            )
    selection.overlays.append(Overlay(file, dict(selection.picks)))


def _parse_overlay_entry(entry: Any, group: str) -> tuple[str | None, tuple[str, Any] | None]:
    """Return the name of a nested overlay, or the group and choice that the entry overrides."""
    if isinstance(entry, str):
        return entry.removeprefix(f"/{group}/"), None
    if isinstance(entry, dict) and len(entry) == 1:
        ((key, value),) = entry.items()
        match = re.fullmatch(r"override\s+/?(\w+)", key)
        if match and match[1] in (*SINGLE, *LISTS):
            return None, (match[1], value)
    return None, None


def _apply_group_override(picks: dict[str, Pick], override: Override, mistakes: list[str]) -> None:
    """Set the picks of one group, or append to them."""
    group, value, location = override.key, override.value, override.location
    if override.sign == "~":
        fix = f"choose another one: {group}=CHOICE" if group in SINGLE else f"leave it empty: {group}=[]"
        mistakes.append(format_mistake(location, f"the group {group} cannot be removed", fix))
        return
    if isinstance(value, dict):
        mistakes.append(
            format_mistake(
                location, f"{group} must be the name of a choice", f"set its options one by one: {group}.OPTION=VALUE"
            )
        )
        return
    if group in SINGLE:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = override.raw_text or str(value)  # the name of no choice, such as precision=32
        if not isinstance(value, str) or not value:
            hint = (
                f"write {group}={value[0]}" if isinstance(value, list) and len(value) == 1 else f"write {group}=CHOICE"
            )
            mistakes.append(format_mistake(location, f"{group} must be exactly one choice", hint))
            return
        picks[group] = value
        return
    names = [value] if isinstance(value, str) and value else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        mistakes.append(
            format_mistake(
                location, f"{group} must be a list of choices", f"write {group}=[NAME,…], or {group}=[] for none"
            )
        )
        return
    previous_names = picks[group] or []
    names = [*previous_names, *names] if override.sign == "+" else names
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        hint = f"{', '.join(duplicates)} is already chosen; set its options with {group}.{duplicates[0]}.OPTION=VALUE"
        mistakes.append(
            format_mistake(
                location,
                f"{', '.join(duplicates)} is named twice in {group}",
                hint if override.sign else "name it once",
            )
        )
        names = list(dict.fromkeys(names))
    picks[group] = names


def _resolve_picks(
    registry: Registry,
    group: str,
    location: str,
    selection: Selection,
    mistakes: list[str],
    make_translator: Callable[[Registry], Translator] | None,
) -> None:
    pick = selection.picks[group]
    choice_names: list[str] = []
    for name in pick if isinstance(pick, list) else [pick]:
        choice = _find_choice(registry, group, name, mistakes, make_translator)
        if choice is None:
            continue
        choice_names.append(choice.name)
        earlier_choice = selection.choice_by_key.get(choice.key)
        if earlier_choice is not None:
            problem = f"{earlier_choice.name} and {choice.name} are both {choice.base}, which can be chosen only once"
            mistakes.append(format_mistake(location or choice.key, problem))
            continue
        selection.choice_by_key[choice.key] = choice
    selection.picks[group] = choice_names if isinstance(pick, list) else next(iter(choice_names), None)


def _find_choice(
    registry: Registry,
    group: str,
    name: Pick,
    mistakes: list[str],
    make_translator: Callable[[Registry], Translator] | None,
) -> Choice | None:
    if not isinstance(name, str):
        mistakes.append(f"{group} needs a choice; {did_you_mean('', registry.list_names(group))}")
        return None
    try:
        return registry.get_choice(group, name)
    except ConfigError as error:
        is_unknown = name not in registry.list_names(group)
        line = make_translator(registry).translate_choice(group, name) if make_translator and is_unknown else None
        hint = f"{group}={name}: there is no such choice\n     write {line}"
        mistakes.append(hint if line else str(error).replace("\n  ", "\n     "))
    nearest_name = find_nearest(name, registry.list_names(group))
    try:
        return registry.get_choice(group, nearest_name) if nearest_name not in (None, name) else None
    except ConfigError:
        return None


def get_choice_names(picks: Mapping[str, Pick]) -> dict[str, Pick]:
    """Return the picks as the configuration saves them: every group, in the order of the groups."""
    return {group: picks[group] for group in GROUPS}
