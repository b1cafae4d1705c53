"""Find all mistakes of a command line, from YAML files and module sources alone.

    arguments ─ read_overrides ─► overrides ─ select_choices ─► choice of each group
              ─ check keys and values ─► ValidCommandLine

The files of the selected choices follow the same rules: a message names the line of a misspelled
key in an experiment or in a user's preset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.config.choice_selection import select_choices
from dnntrain.config.convert import MISSING, convert_value
from dnntrain.config.groups import GROUPS, LISTS, OVERLAYS, SINGLE
from dnntrain.config.key_table import KeyTable, UnknownKeyError
from dnntrain.config.overrides import Override, format_mistake, read_overrides, sort_mistakes
from dnntrain.config.registry import Choice, Registry, load_registry
from dnntrain.config.safety import find_key_problem, find_value_problem, has_interpolation
from dnntrain.config.selection import Pick, Selection
from dnntrain.config.yaml_io import YamlFile, format_path, read_yaml
from dnntrain.errors import ConfigError

if TYPE_CHECKING:
    from dnntrain.config.translate import Translator


@dataclass(frozen=True)
class ValidCommandLine:
    """A valid command line: its overrides of values, the selected choices, and notes to print."""

    overrides: tuple[Override, ...]
    selection: Selection
    registry: Registry
    notes: tuple[str, ...]

    @property
    def hydra_overrides(self) -> list[str]:
        """Return the overrides for Hydra: the full choice of every group, then the values."""
        picks = {group: pick for group, pick in self.selection.picks.items() if pick is not None}
        groups = [f"{group}={_format_pick(pick)}" for group, pick in picks.items()]
        return [*groups, *(override.hydra_override for override in self.overrides)]


#: Sections of other trainers, which are near to `train`.
_FOREIGN_SECTIONS = ("trainer", "training", "training_args")


def validate_overrides(
    arguments: Sequence[str], config_dir: Path | None = None, saved_picks: Mapping[str, Pick] | None = None
) -> ValidCommandLine:
    """Return the checked command line of `arguments`.

    `saved_picks` are the choices of a saved configuration, which the arguments change.
    Raises ConfigError that lists every mistake, with the nearest valid name and its file.
    """
    choice_registry = load_registry(config_dir)
    mistakes: list[str] = []
    overrides = read_overrides(arguments, mistakes)
    selection = select_choices(choice_registry, overrides, mistakes, saved_picks, make_translator)
    table = KeyTable(choice_registry, selection)
    value_overrides = tuple(override for override in overrides if not override.is_group)
    for override in value_overrides:
        mistakes += find_override_mistakes(override, table, make_translator)
    for override in _iterate_file_settings(choice_registry, selection, mistakes):
        mistakes += find_override_mistakes(override, table)
    if mistakes:
        raise ConfigError.from_mistakes(sort_mistakes(mistakes, arguments))
    return ValidCommandLine(
        value_overrides, selection, choice_registry, (*choice_registry.problems, *_note_dropped_values(selection))
    )


def make_translator(choice_registry: Registry) -> Translator:
    """Return the translator of other trainers' words into lines that this check accepts."""
    from dnntrain.config.translate import Translator  # here: for a line with a mistake only

    def accepts(words: Sequence[str]) -> bool:
        mistakes: list[str] = []
        overrides = read_overrides(words, mistakes)
        table = KeyTable(choice_registry, select_choices(choice_registry, overrides, mistakes))
        values = [override for override in overrides if not override.is_group]
        return not mistakes and not any(find_override_mistakes(override, table) for override in values)

    return Translator(choice_registry, accepts)


def find_override_mistakes(
    override: Override, table: KeyTable, make_translator: Callable[[Registry], Translator] | None = None
) -> list[str]:
    """Return the mistakes of one override of a value: its key, then type and bounds.

    With `make_translator`, the hint for a word of another trainer is the line that it means.
    """
    if reason := find_key_problem(override.key):
        return [format_mistake(override.location, reason)]
    if override.sign == "~":
        return [
            format_mistake(override.location, f"{override.key} cannot be removed", _suggest_replacement(override.keys))
        ]
    try:
        field_schema = table.find_field(override.keys)
    except UnknownKeyError as error:
        # A typo of a key with its section is nearer to that key than to a word of another trainer.
        is_own_key = len(override.keys) > 1 and override.keys[0] not in _FOREIGN_SECTIONS
        has_own_hint = error.is_option_elsewhere or (is_own_key and error.has_nearest)
        line = None if has_own_hint else _translate(override, table, make_translator)
        return [format_mistake(override.location, error.problem, f"write {line}" if line else error.hint)]
    if reason := find_value_problem(override.value):
        return [format_mistake(override.location, reason)]
    if field_schema is None or has_interpolation(override.value) or override.value == MISSING:
        return []
    try:
        convert_value(override.value, field_schema.type)
    except ValueError as error:
        line = _translate(override, table, make_translator) if override.key == "device" else None
        doc = f"{field_schema.doc} ({format_path(field_schema.path)}:{field_schema.line})".strip()
        return [format_mistake(override.location, str(error), f"write {line}" if line else doc)]
    return []


def _translate(
    override: Override, table: KeyTable, make_translator: Callable[[Registry], Translator] | None
) -> str | None:
    if make_translator is None:
        return None
    value = override.value if isinstance(override.value, str) else override.raw_text
    return make_translator(table.registry).translate_setting(override.keys, value)


def _suggest_replacement(keys: tuple[str, ...]) -> str:
    if keys[0] in LISTS and len(keys) == 2:
        return f"name the choices to keep: {keys[0]}=[…], or {keys[0]}=[] for none"
    return "set another value, or null if the key allows it"


def _iterate_file_settings(choice_registry: Registry, selection: Selection, mistakes: list[str]) -> Iterator[Override]:
    """Yield the settings of the files in use: the root, the selected choices, the overlays."""
    root = read_yaml(choice_registry.root)
    for keys, value in root.iterate_leaves():
        if keys[0] != "hydra" and not (keys[0] in LISTS and value == {}):
            yield Override(".".join(keys), value, "", root.get_location(keys))
    for choice in selection.choice_by_key.values():
        for file in choice.chain:
            mistakes += _find_file_mistakes(choice, file)
            for keys, value in file.iterate_leaves():
                if keys != ("name",) or "name" in choice.schema.fields:
                    yield Override(".".join((choice.key, *keys)), value, "", file.get_location(keys))
    for layer in selection.overlays:
        for keys, value in layer.file.iterate_leaves():
            if dotted_key := next((key for key in keys if "." in key), None):
                hint = "write each part of the key on its own line, indented below the previous part"
                mistakes.append(
                    format_mistake(layer.file.get_location(keys), f"YAML reads {dotted_key!r} as one key", hint)
                )
                continue
            if value == {} and keys[0] in (*LISTS, *SINGLE):
                continue
            if keys[0] in OVERLAYS or (keys[0] in GROUPS and len(keys) == 1):
                hint = f"choose it in the defaults list: - override /{keys[0]}: CHOICE"
                mistakes.append(format_mistake(layer.file.get_location(keys), f"{keys[0]} is a group", hint))
            elif keys[0] not in GROUPS or selection.is_in_force(layer, keys[0], keys[1]):
                yield Override(".".join(keys), value, "", layer.file.get_location(keys))
            elif keys[0] in LISTS and keys[1] not in _get_member_keys(choice_registry, keys[0], layer.picks[keys[0]]):
                hint = f"add `- override /{keys[0]}: [{keys[1]}]` to its defaults list"
                mistakes.append(
                    format_mistake(layer.file.get_location(keys), f"{'.'.join(keys[:2])} is not chosen here", hint)
                )


def _get_member_keys(choice_registry: Registry, group: str, pick: Any) -> set[str]:
    """Return the keys of the members of a list group: the names of their bases."""
    return {choice_registry.get_choice(group, name).base for name in pick or ()}


def _find_file_mistakes(choice: Choice, file: YamlFile) -> list[str]:
    """Return the mistakes in the form of a choice's file: `# @package` and `name`."""
    mistakes = []
    expected_package = None if GROUPS[choice.group].single else choice.key
    if file.package not in (expected_package, choice.key if expected_package is None else expected_package):
        line = f"`# @package {expected_package}`" if expected_package else "no `# @package` line"
        mistakes.append(
            format_mistake(format_path(file.path), f"its head must have {line}", "the line sets the key of its options")
        )
    name = file.values.get("name", choice.base)
    if name != choice.base and "name" not in choice.schema.fields:
        mistakes.append(
            format_mistake(
                file.get_location(("name",)), f"name must be {choice.base}, not {name!r}", f"write name: {choice.base}"
            )
        )
    return mistakes


def _note_dropped_values(selection: Selection) -> list[str]:
    """Return a note for each overlay whose values for a group are dropped.

    They are dropped because another choice replaced their choice after the overlay.
    """
    notes = []
    for layer in selection.overlays:
        groups = {
            keys[0] if GROUPS[keys[0]].single else ".".join(keys[:2])
            for keys, _ in layer.file.iterate_leaves()
            if keys[0] in GROUPS and len(keys) > 1 and not selection.is_in_force(layer, keys[0], keys[1])
        }
        if groups:
            notes.append(
                f"{format_path(layer.file.path)}: its values for {', '.join(sorted(groups))} "
                "are dropped, because their choice was replaced"
            )
    return notes


def _format_pick(pick: Any) -> str:
    if isinstance(pick, list):
        return "[" + ",".join(pick) + "]"
    return str(pick)
