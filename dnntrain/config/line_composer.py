"""Compose many lines that differ in values: lines with the same choices and keys share one composition."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnntrain.config.compose import compose_unresolved, resolve
from dnntrain.config.convert import MISSING, convert_value, to_plain
from dnntrain.config.key_table import KeyTable
from dnntrain.config.overrides import Override, read_overrides
from dnntrain.config.paths import make_paths_absolute, names_path
from dnntrain.config.registry import Choice
from dnntrain.config.safety import has_interpolation
from dnntrain.config.selection import Selection
from dnntrain.config.validate import ValidCommandLine, find_override_mistakes, make_translator, validate_overrides
from dnntrain.config.yaml_io import iterate_leaves
from dnntrain.errors import ConfigError
from dnntrain.utils.messages import say_once
from dnntrain.utils.words import get_key

#: A value that needs no parser: Hydra's grammar reads it as the number that Python reads.
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_VARIABLE = re.compile(r"\$\{\s*oc\.env\s*:[^${}]*\}")
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


@dataclass(frozen=True)
class ComposedLine:
    """A line's values, as `compose` returns them, with the choices that it selects.

    `numbers` holds the swept numbers on which no other value depends, by key; one of a real-valued
    option is a float.
    """

    config: dict[str, Any]
    selection: Selection
    numbers: Mapping[str, float]

    def get_choice(self, key: str) -> tuple[Choice, dict[str, Any]]:
        """Return the choice whose options are at `key`, such as optim or reg.dropout, and the options."""
        values: Any = self.config
        for part in key.split("."):
            values = values[part]
        return self.selection.choice_by_key[key], values


class LineComposer:
    """Composes lines; after the first one of the same choices and keys, it only replaces the values.

    Each line gets the values that `compose` gives it.
    """

    def __init__(self, config_dir: Path | None = None) -> None:
        self._config_dir = config_dir
        self._overrides: dict[str, Override | None] = {}
        self._templates: dict[tuple[str, ...], _Template] = {}
        # By the keys of a line: those whose values others depend on.
        self._fixed_keys: dict[tuple[str, ...], frozenset[str]] = {}

    def compose(self, words: Sequence[str], swept_words: Sequence[str], *, quiet: bool = False) -> ComposedLine:
        """Return the values of a line; `swept_words` are those of its words that other lines may not have.

        Raises ConfigError that lists every mistake of the line.
        """
        overrides = [override for word in swept_words if (override := self._read(word)) is not None]
        keys = _leave_out_values(words, overrides)
        template = None
        if keys not in self._fixed_keys:
            template = _Template.make(words, self._config_dir, quiet)
            fixed = frozenset(override.key for override in overrides if not template.can_replace(override.key))
            self._fixed_keys[keys] = fixed
        overrides = [override for override in overrides if override.key not in self._fixed_keys[keys]]
        shape = _leave_out_values(words, overrides)
        if shape not in self._templates:
            self._templates[shape] = template or _Template.make(words, self._config_dir, quiet)
        return self._templates[shape].replace_values(overrides)

    def _read(self, word: str) -> Override | None:
        """Return the override of a word; None if it sets a choice, or must be checked with its line."""
        if word not in self._overrides:
            self._overrides[word] = _read_value_word(word)
        return self._overrides[word]


def _read_value_word(word: str) -> Override | None:
    raw = word.partition("=")[2]
    if _NUMBER.fullmatch(raw):
        override = Override(get_key(word), float(raw) if re.search(r"[.eE]", raw) else int(raw), "", word, raw)
    else:
        overrides = read_overrides([word], [])
        if not overrides:
            return None
        override = overrides[0]
    if override.is_group or override.sign == "~" or override.value == MISSING or has_interpolation(override.value):
        return None
    return override


def _leave_out_values(words: Sequence[str], overrides: Sequence[Override]) -> tuple[str, ...]:
    keys = {override.key for override in overrides}
    return tuple(f"{word.partition('=')[0]}=" if get_key(word) in keys else word for word in words)


@dataclass(frozen=True)
class _Template:
    """A composed line whose values can be replaced.

    `references` are the keys that interpolations name; None if one of them is not a plain key.
    """

    config: dict[str, Any]
    valid_line: ValidCommandLine
    references: frozenset[str] | None

    @classmethod
    def make(cls, words: Sequence[str], config_dir: Path | None, quiet: bool) -> _Template:
        valid_line = validate_overrides(words, config_dir)
        if not quiet:
            for note in valid_line.notes:
                say_once(f"note: {note}")
        container = compose_unresolved(valid_line)
        return cls(resolve(container, valid_line), valid_line, _find_references(container))

    def can_replace(self, key: str) -> bool:
        """Return whether no other value depends on the one of `key`, and its type is known."""
        if self.references is None:
            return False
        if any(name == key or name.startswith(f"{key}.") or key.startswith(f"{name}.") for name in self.references):
            return False
        group, _, option = key.partition(".")
        choice = self.valid_line.selection.choice_by_key.get(group)
        names_run = choice is not None and choice.schema.label_key == option
        return not names_run and self._table.find_field(tuple(key.split("."))) is not None

    def replace_values(self, overrides: Sequence[Override]) -> ComposedLine:
        """Return the line with these values. Raises ConfigError that lists every value that is not valid."""
        table, config = self._table, self.config
        numbers: dict[str, float] = {}
        mistakes = [text for override in overrides for text in find_override_mistakes(override, table, make_translator)]
        if mistakes:
            raise ConfigError.from_mistakes(mistakes)
        for override in overrides:
            field_schema = table.find_field(override.keys)
            assert field_schema is not None
            value = to_plain(convert_value(override.value, field_schema.type))
            config = _replace_value(config, override.keys, value)
            if isinstance(value, int | float) and not isinstance(value, bool):
                numbers[override.key] = value
        if any(names_path(override.key) for override in overrides):
            config = make_paths_absolute(config)
        return ComposedLine(config, self.valid_line.selection, numbers)

    @property
    def _table(self) -> KeyTable:
        return KeyTable(self.valid_line.registry, self.valid_line.selection)


def _find_references(container: Mapping[str, Any]) -> frozenset[str] | None:
    """Return the keys that the interpolations of the values name; None if one names no plain key."""
    names: set[str] = set()
    for _, value in iterate_leaves(dict(container)):
        if not has_interpolation(value):
            continue
        text = _VARIABLE.sub("", str(value))
        references = _REFERENCE.findall(text)
        if text.count("${") != len(references) or any(name[0] == "." for name in references):
            return None
        names.update(references)
    return frozenset(names)


def _replace_value(section: Mapping[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    first, *rest = keys
    return {**section, first: _replace_value(section[first], rest, value) if rest else value}
