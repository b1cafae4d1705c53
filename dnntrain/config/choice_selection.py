"""Works out, from the YAML files alone, which choice each group ends up with.

The order is that of Hydra: the root's defaults list, then the experiment, then debug (each with the overlays that its
own defaults list names before it), then the command line. `+reg=[x]` appends to what stands there by then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dnntrain.config.groups import GROUPS, LISTS, OVERLAYS, SINGLE
from dnntrain.config.overrides import Setting, mistake
from dnntrain.config.registry import Choice, Registry
from dnntrain.config.yaml_io import YamlFile, read_yaml, shown
from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import did_you_mean, nearest

Pick = str | list[str] | None


@dataclass
class Layer:
    """An overlay's file, and what each group had chosen when the overlay was through: what its values are meant for."""

    file: YamlFile
    picks: dict[str, Pick]


@dataclass
class Selection:
    """The picks of all groups, the choices they mean, and the overlays in the order in which they apply.

    `keyed` holds the choices by the key at which their knobs stand: "optim", "reg.mixup".
    """

    picks: dict[str, Pick]
    layers: list[Layer] = field(default_factory=list)
    keyed: dict[str, Choice] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def intended(self, layer: Layer, group: str, name: str | None) -> bool:
        """True where the values that `layer` sets for `group` (in a list group for `name`) still have their choice."""
        before, after = layer.picks[group], self.picks[group]
        if GROUPS[group].single:
            return before == after
        choice = self.keyed.get(f"{group}.{name}")
        return choice is not None and choice.name in (before or ())


def select(registry: Registry, settings: Sequence[Setting], mistakes: list[str]) -> Selection:
    """The selection that `settings` make; unknown choices are added to `mistakes`, the nearest stands in for them."""
    selection = Selection(_root_picks(registry, mistakes))
    by_group = {setting.key: setting for setting in settings if setting.is_group}
    for group in OVERLAYS:
        if group in by_group:
            selection.picks[group] = _overlay_pick(by_group[group], mistakes)
        name = selection.picks[group]
        if isinstance(name, str):
            place = by_group[group].place if group in by_group else shown(registry.root)
            _apply_overlay(registry, group, name, place, selection, mistakes, seen=())
    for group, setting in by_group.items():
        if group not in OVERLAYS:
            _apply_setting(selection.picks, setting, mistakes)
    places = {group: by_group[group].place if group in by_group else "" for group in GROUPS}
    for group in (*SINGLE, *LISTS):
        _find_choices(registry, group, places[group], selection, mistakes)
    return selection


def _root_picks(registry: Registry, mistakes: list[str]) -> dict[str, Pick]:
    picks: dict[str, Pick] = {group: None if GROUPS[group].single else [] for group in GROUPS}
    root = read_yaml(registry.root)
    for entry in root.defaults:
        if entry == "_self_":
            continue
        if not isinstance(entry, dict) or len(entry) != 1 or next(iter(entry)) not in GROUPS:
            mistakes.append(mistake(root.place(("defaults",)), f"{entry!r} is not `GROUP: CHOICE`"))
            continue
        ((group, pick),) = entry.items()
        picks[group] = list(pick or ()) if group in LISTS else pick
    return picks


def _overlay_pick(setting: Setting, mistakes: list[str]) -> str | None:
    if setting.sign == "~" or setting.value is None:
        return None
    if isinstance(setting.value, str) and setting.value:
        return setting.value
    mistakes.append(mistake(setting.place, f"{setting.key} is the name of one choice, or null"))
    return None


def _apply_overlay(
    registry: Registry,
    group: str,
    name: str,
    place: str,
    selection: Selection,
    mistakes: list[str],
    seen: tuple[str, ...],
) -> None:
    if name in seen:
        mistakes.append(mistake(place, f"the overlays {', '.join((*seen, name))} refer to each other"))
        return
    try:
        file = registry.choice(group, name).chain[-1]
    except ConfigError as error:
        mistakes.append(str(error).replace("\n  ", "\n     "))
        return
    if file.package != "_global_":
        hint = f"begin {shown(file.path)} with the line: # @package _global_"
        mistakes.append(mistake(f"{group}={name}", "an overlay sets keys of the whole configuration", hint))
    where = file.place(("defaults",))
    if "_self_" in file.defaults and file.defaults[-1] != "_self_":
        mistakes.append(mistake(where, "_self_ stands before other entries", "make it the last one, or leave it out"))
    for entry in file.defaults:
        nested, override = _overlay_entry(entry, group)
        if nested is not None and nested != "_self_":
            _apply_overlay(registry, group, nested, where, selection, mistakes, (*seen, name))
        elif override is not None:
            target, value = override
            _apply_setting(selection.picks, Setting(target, value, "", f"{where}: override /{target}"), mistakes)
        elif nested is None:
            hint = "write `- override /GROUP: CHOICE`, `- OTHER_OVERLAY` or `- _self_`"
            mistakes.append(mistake(where, f"the entry {entry!r} of the defaults list is not understood", hint))
    selection.layers.append(Layer(file, dict(selection.picks)))


def _overlay_entry(entry: Any, group: str) -> tuple[str | None, tuple[str, Any] | None]:
    """A nested overlay's name, or the group and choice that the entry overrides."""
    if isinstance(entry, str):
        return entry.removeprefix(f"/{group}/"), None
    if isinstance(entry, dict) and len(entry) == 1:
        ((key, value),) = entry.items()
        match = re.fullmatch(r"override\s+/?(\w+)", key)
        if match and match[1] in (*SINGLE, *LISTS):
            return None, (match[1], value)
    return None, None


def _apply_setting(picks: dict[str, Pick], setting: Setting, mistakes: list[str]) -> None:
    """Sets or appends to the picks of one group."""
    group, value, place = setting.key, setting.value, setting.place
    if setting.sign == "~":
        fix = f"choose another one: {group}=CHOICE" if group in SINGLE else f"leave it empty: {group}=[]"
        mistakes.append(mistake(place, f"the group {group} cannot be removed", fix))
        return
    if isinstance(value, dict):
        mistakes.append(mistake(place, f"{group} is chosen by name", f"set its knobs one by one: {group}.KNOB=VALUE"))
        return
    if group in SINGLE:
        if not isinstance(value, str) or not value:
            hint = (
                f"write {group}={value[0]}" if isinstance(value, list) and len(value) == 1 else f"write {group}=CHOICE"
            )
            mistakes.append(mistake(place, f"{group} has exactly one choice", hint))
            return
        picks[group] = value
        return
    names = [value] if isinstance(value, str) and value else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        mistakes.append(
            mistake(place, f"{group} is a list of choices", f"write {group}=[NAME,…], or {group}=[] for none")
        )
        return
    before = picks[group] or []
    names = [*before, *names] if setting.sign == "+" else names
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        hint = f"{', '.join(repeated)} is there already; set its knobs with {group}.{repeated[0]}.KNOB=VALUE"
        mistakes.append(
            mistake(place, f"{', '.join(repeated)} stands twice in {group}", hint if setting.sign else "name it once")
        )
        names = list(dict.fromkeys(names))
    picks[group] = names


def _find_choices(registry: Registry, group: str, place: str, selection: Selection, mistakes: list[str]) -> None:
    pick = selection.picks[group]
    found: list[str] = []
    for name in pick if isinstance(pick, list) else [pick]:
        choice = _find(registry, group, name, mistakes)
        if choice is None:
            continue
        found.append(choice.name)
        other = selection.keyed.get(choice.key)
        if other is not None:
            what = f"{other.name} and {choice.name} are both {choice.base}, which can be chosen once"
            mistakes.append(mistake(place or choice.key, what))
            continue
        selection.keyed[choice.key] = choice
    selection.picks[group] = found if isinstance(pick, list) else next(iter(found), None)


def _find(registry: Registry, group: str, name: Pick, mistakes: list[str]) -> Choice | None:
    if not isinstance(name, str):
        mistakes.append(f"{group} has no choice; {did_you_mean('', registry.names(group))}")
        return None
    try:
        return registry.choice(group, name)
    except ConfigError as error:
        mistakes.append(str(error).replace("\n  ", "\n     "))
    close = nearest(name, registry.names(group))
    try:
        return registry.choice(group, close) if close not in (None, name) else None
    except ConfigError:
        return None


def choices_of(picks: Mapping[str, Pick]) -> dict[str, Pick]:
    """The picks as they are saved with the configuration: every group, in the groups' order."""
    return {group: picks[group] for group in GROUPS}
