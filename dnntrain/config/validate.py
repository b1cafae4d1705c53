"""Finds all mistakes of a command line at once, from the YAML files and the modules' source alone.

    words ─ read_overrides ─► settings ─ select ─► choice of each group ─ check every key and value ─► Checked

The files that take part are held to the same rules: a key that an experiment or a user's preset misspells is named
with its line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnntrain.config.choice_selection import Selection, select
from dnntrain.config.convert import MISSING, convert
from dnntrain.config.groups import GROUPS, LISTS, OVERLAYS, SINGLE
from dnntrain.config.key_table import KeyTable, UnknownKeyError
from dnntrain.config.overrides import Setting, mistake, read_overrides
from dnntrain.config.registry import Choice, Registry, registry
from dnntrain.config.safety import has_interpolation, refused_key, refused_value
from dnntrain.config.yaml_io import YamlFile, read_yaml, shown
from dnntrain.errors import ConfigError


@dataclass(frozen=True)
class Checked:
    """A command line without mistakes: its settings (groups excepted), the choices, and notes worth saying aloud."""

    settings: tuple[Setting, ...]
    selection: Selection
    registry: Registry
    notes: tuple[str, ...]

    @property
    def overrides(self) -> list[str]:
        """The overrides for Hydra: the choice of every group in full, then the values."""
        picks = {group: pick for group, pick in self.selection.picks.items() if pick is not None}
        groups = [f"{group}={_written(pick)}" for group, pick in picks.items()]
        return [*groups, *(setting.line for setting in self.settings)]


def precheck(words: Sequence[str], config_dir: Path | None = None) -> Checked:
    """The settings that `words` make.

    Raises ConfigError that lists every mistake, with the nearest valid name and its file.
    """
    known = registry(config_dir)
    mistakes: list[str] = []
    settings = read_overrides(words, mistakes)
    selection = select(known, settings, mistakes)
    table = KeyTable(known, selection)
    values = tuple(setting for setting in settings if not setting.is_group)
    for setting in values:
        mistakes += check(setting, table)
    for setting in _file_settings(known, selection, mistakes):
        mistakes += check(setting, table)
    if mistakes:
        raise ConfigError.of(list(dict.fromkeys(mistakes)))
    return Checked(values, selection, known, (*known.problems, *_dropped(selection)))


def check(setting: Setting, table: KeyTable) -> list[str]:
    """The mistakes of one setting of a value: its key, then the type and bounds of the value."""
    if reason := refused_key(setting.key):
        return [mistake(setting.place, reason)]
    if setting.sign == "~":
        return [mistake(setting.place, f"{setting.key} cannot be removed", _instead_of_removing(setting.keys))]
    try:
        knob = table.find(setting.keys)
    except UnknownKeyError as error:
        return [mistake(setting.place, error.what, error.hint)]
    if reason := refused_value(setting.value):
        return [mistake(setting.place, reason)]
    if knob is None or has_interpolation(setting.value) or setting.value == MISSING:
        return []
    try:
        convert(setting.value, knob.type)
    except ValueError as error:
        return [mistake(setting.place, str(error), f"{knob.doc} ({shown(knob.path)}:{knob.line})".strip())]
    return []


def _instead_of_removing(keys: tuple[str, ...]) -> str:
    if keys[0] in LISTS and len(keys) == 2:
        return f"name those that stay: {keys[0]}=[…], or {keys[0]}=[] for none"
    return "set another value: null where the key allows it"


def _file_settings(known: Registry, selection: Selection, mistakes: list[str]) -> Iterator[Setting]:
    """What the files that take part set: the root, the chosen choices, the overlays."""
    root = read_yaml(known.root)
    for keys, value in root.leaves():
        if keys[0] != "hydra" and not (keys[0] in LISTS and value == {}):
            yield Setting(".".join(keys), value, "", root.place(keys))
    for choice in selection.keyed.values():
        for file in choice.chain:
            mistakes += _form_mistakes(choice, file)
            for keys, value in file.leaves():
                if keys != ("name",) or "name" in choice.schema.fields:
                    yield Setting(".".join((choice.key, *keys)), value, "", file.place(keys))
    for layer in selection.layers:
        for keys, value in layer.file.leaves():
            if dotted := next((key for key in keys if "." in key), None):
                hint = "write each part on a line of its own, indented below the one before"
                mistakes.append(mistake(layer.file.place(keys), f"{dotted!r} is one key in YAML", hint))
                continue
            if value == {} and keys[0] in (*LISTS, *SINGLE):
                continue
            if keys[0] in OVERLAYS or (keys[0] in GROUPS and len(keys) == 1):
                hint = f"choose it in the defaults list: - override /{keys[0]}: CHOICE"
                mistakes.append(mistake(layer.file.place(keys), f"{keys[0]} is a group", hint))
            elif keys[0] not in GROUPS or selection.intended(layer, keys[0], keys[1]):
                yield Setting(".".join(keys), value, "", layer.file.place(keys))
            elif keys[0] in LISTS and keys[1] not in _members(known, keys[0], layer.picks[keys[0]]):
                hint = f"add `- override /{keys[0]}: [{keys[1]}]` to its defaults list"
                mistakes.append(mistake(layer.file.place(keys), f"{'.'.join(keys[:2])} is not chosen here", hint))


def _members(known: Registry, group: str, pick: Any) -> set[str]:
    """The keys of the members of a list group, that is the names of their bases."""
    return {known.choice(group, name).base for name in pick or ()}


def _form_mistakes(choice: Choice, file: YamlFile) -> list[str]:
    """Departures of a choice's file from its form: `# @package` and `name`."""
    mistakes = []
    wanted = None if GROUPS[choice.group].single else choice.key
    if file.package not in (wanted, choice.key if wanted is None else wanted):
        line = f"`# @package {wanted}`" if wanted else "no `# @package` line"
        mistakes.append(mistake(shown(file.path), f"its head has {line}", "that is where its knobs are looked for"))
    name = file.values.get("name", choice.base)
    if name != choice.base and "name" not in choice.schema.fields:
        mistakes.append(mistake(file.place(("name",)), f"name is {name!r}", f"write name: {choice.base}"))
    return mistakes


def _dropped(selection: Selection) -> list[str]:
    """A note for each overlay whose values for a group fall away, because another choice was made after it."""
    notes = []
    for layer in selection.layers:
        groups = {
            keys[0] if GROUPS[keys[0]].single else ".".join(keys[:2])
            for keys, _ in layer.file.leaves()
            if keys[0] in GROUPS and len(keys) > 1 and not selection.intended(layer, keys[0], keys[1])
        }
        if groups:
            notes.append(
                f"{shown(layer.file.path)}: its values for {', '.join(sorted(groups))} go with the choice they were for"
            )
    return notes


def _written(pick: Any) -> str:
    if isinstance(pick, list):
        return "[" + ",".join(pick) + "]"
    return str(pick)
