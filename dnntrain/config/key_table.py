"""The keys that a configuration may have under a selection, and for every other key what may have been meant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dnntrain.config import run_config
from dnntrain.config.choice_selection import Selection
from dnntrain.config.groups import GROUPS, LISTS, OVERLAYS, SINGLE
from dnntrain.config.registry import Choice, Registry
from dnntrain.config.schema import FieldSchema, read_class
from dnntrain.config.yaml_io import shown
from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import did_you_mean, edit_distance, nearest

_RUN_FILE = Path(run_config.__file__)


class UnknownKeyError(Exception):
    """A key that does not stand in the configuration: what is wrong, and what was probably meant."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


@cache
def scalar_fields() -> dict[str, FieldSchema]:
    """The plain values at the root: `seed`, `device` …"""
    return read_class(_RUN_FILE, run_config.RootSection.__name__)


@cache
def section_fields(section: str) -> dict[str, FieldSchema]:
    """The keys of a section: `train`, `eval`, `checkpoint` or `log`."""
    return read_class(_RUN_FILE, run_config.SECTIONS[section].__name__)


@dataclass
class KeyTable:
    """Finds the field that a key names, given what is chosen."""

    registry: Registry
    selection: Selection

    def find(self, keys: tuple[str, ...]) -> FieldSchema | None:
        """The field that `keys` name, or None where its group's choice is itself a mistake.

        Raises UnknownKeyError with the nearest key and the file that defines it.
        """
        first, *rest = keys
        if first in scalar_fields():
            return self._leaf(scalar_fields()[first], keys, depth=1)
        if first in run_config.SECTIONS:
            return self._in_fields(section_fields(first), first, keys, depth=1)
        if first in SINGLE:
            if not rest:
                raise UnknownKeyError(f"{first} is a group", f"choose with {first}=CHOICE; {self._names(first)}")
            choice = self.selection.keyed.get(first)
            return None if choice is None else self._in_choice(choice, keys, depth=1)
        if first in LISTS:
            return self._in_list(first, keys)
        if first in OVERLAYS:
            raise UnknownKeyError(f"{first} is a group of overlays", f"choose with {first}=NAME; {self._names(first)}")
        raise self._unknown_root(keys)

    def _in_choice(self, choice: Choice, keys: tuple[str, ...], depth: int) -> FieldSchema:
        fields = self._fields(choice)
        name = keys[depth]
        if name in fields:
            return self._leaf(fields[name], keys, depth + 1)
        chosen = f"{choice.group}={choice.name}" if GROUPS[choice.group].single else choice.key
        if name == "name":
            knobs = f"; the knobs of {chosen} are {', '.join(fields)}" if fields else ""
            raise UnknownKeyError(
                f"{choice.key}.name tells which choice it is", f"choose with {choice.group}=NAME{knobs}"
            )
        others = self._choices_with(choice.group, name) if GROUPS[choice.group].single else []
        if others:
            files = ", ".join(f"{choice.group}={other.name} ({shown(other.yaml)})" for other in others[:3])
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            raise UnknownKeyError(f"{chosen} has no {name!r}", f"it belongs to {files}{more}")
        where = shown(choice.chain[0].path)
        if not fields:
            raise UnknownKeyError(f"{chosen} has no {name!r}", f"it has nothing to set ({where})")
        raise UnknownKeyError(f"{chosen} has no {name!r}", self._meant(name, list(fields), choice.key, where))

    def _in_list(self, group: str, keys: tuple[str, ...]) -> FieldSchema:
        if len(keys) < 2:
            raise UnknownKeyError(f"{group} is a list of choices", f"write {group}=[NAME,…]")
        name = keys[1]
        choice = self.selection.keyed.get(f"{group}.{name}")
        if choice is not None:
            if len(keys) < 3:
                raise UnknownKeyError(
                    f"{group}.{name} is chosen by {group}=[…]", f"set its knobs: {group}.{name}.KNOB=VALUE"
                )
            return self._in_choice(choice, keys, depth=2)
        for key, chosen in self.selection.keyed.items():
            if chosen.group == group and chosen.name == name:
                raise UnknownKeyError(
                    f"the knobs of {group}={name} stand under {key}", f"write {'.'.join((key, *keys[2:]))}"
                )
        chosen_names = [key.partition(".")[2] for key in self.selection.keyed if key.startswith(f"{group}.")]
        known = self.registry.names(group)
        if name in known:
            raise UnknownKeyError(
                f"{group}.{name} is not chosen", f"add +{group}=[{name}] to use it ({self._file(group, name)})"
            )
        if full := self._near(keys):
            raise UnknownKeyError(f"{group} has no choice {name!r}", full)
        close = nearest(name, chosen_names) or nearest(name, known)
        if close is None:
            raise UnknownKeyError(f"{group} has no choice {name!r}", self._names(group))
        add = "" if close in chosen_names else f", with +{group}=[{close}]"
        hint = f"did you mean {'.'.join((group, close, *keys[2:]))!r}{add}? ({self._file(group, close)})"
        raise UnknownKeyError(f"{group} has no choice {name!r}", hint)

    def _in_fields(self, fields: dict[str, FieldSchema], prefix: str, keys: tuple[str, ...], depth: int) -> FieldSchema:
        if len(keys) == depth:
            raise UnknownKeyError(
                f"{prefix} is a section", f"set its keys one by one, as in {prefix}.{next(iter(fields))}=…"
            )
        name = keys[depth]
        if name in fields:
            return self._leaf(fields[name], keys, depth + 1)
        raise UnknownKeyError(
            f"{prefix} has no key {name!r}", self._meant(name, list(fields), prefix, self._root_file())
        )

    def _leaf(self, found: FieldSchema, keys: tuple[str, ...], depth: int) -> FieldSchema:
        if len(keys) > depth:
            hint = f"write {'.'.join(keys[:depth])}=VALUE ({shown(found.path)}:{found.line})"
            raise UnknownKeyError(f"{'.'.join(keys[:depth])} is a value and has no keys below it", hint)
        return found

    def _unknown_root(self, keys: tuple[str, ...]) -> UnknownKeyError:
        """A first key that is none: a group, section or root key misspelled, or a key without its section."""
        first = keys[0]
        what = f"there is no key {'.'.join(keys)!r}"
        leaves = self._leaf_index()
        if len(keys) == 1 and first in leaves:
            return UnknownKeyError(what, "did you mean " + " or ".join(repr(full) for full in leaves[first]) + "?")
        for group in LISTS:
            if first in self.registry.names(group):
                return UnknownKeyError(what, f"did you mean +{group}=[{first}]? ({self._file(group, first)})")
        if full := self._near(keys):
            return UnknownKeyError(what, full)
        known = [*GROUPS, *run_config.SECTIONS, *scalar_fields()]
        heads = known if len(keys) == 1 else [*GROUPS, *run_config.SECTIONS]
        close = nearest(first, heads)
        if close is not None:
            where = f"{shown(self.registry.root.parent / close)}/" if close in GROUPS else self._root_file()
            return UnknownKeyError(what, f"did you mean {'.'.join((close, *keys[1:]))!r}? ({where})")
        close = nearest(keys[-1], list(leaves))
        if close is not None:
            return UnknownKeyError(what, "did you mean " + " or ".join(repr(full) for full in leaves[close]) + "?")
        return UnknownKeyError(what, "known: " + ", ".join(sorted(known)))

    def _near(self, keys: tuple[str, ...]) -> str:
        """A hint that names the whole key from which `keys` are at most two letters away, or nothing."""
        typed = ".".join(keys)
        full = {key: file for key, file in self._whole_keys() if abs(len(key) - len(typed)) <= 2}
        close = nearest(typed, list(full))
        if close is None or edit_distance(typed, close) > 2:
            return ""
        return f"did you mean {close!r}? ({full[close]})"

    def _whole_keys(self) -> Iterator[tuple[str, str]]:
        """Every key that stands under this selection, groups included, with the file that defines it."""
        conf = self.registry.root.parent
        yield from ((group, f"{shown(conf / group)}/") for group in GROUPS)
        yield from ((name, self._root_file()) for name in scalar_fields())
        yield from (
            (f"{section}.{name}", self._root_file())
            for section in run_config.SECTIONS
            for name in section_fields(section)
        )
        for key, choice in self.selection.keyed.items():
            yield from ((f"{key}.{name}", shown(choice.chain[0].path)) for name in self._fields(choice))

    def _leaf_index(self) -> dict[str, list[str]]:
        """Every key of the sections and of the chosen choices by its last part."""
        index: dict[str, list[str]] = {}
        for section in run_config.SECTIONS:
            for name in section_fields(section):
                index.setdefault(name, []).append(f"{section}.{name}")
        for key, choice in self.selection.keyed.items():
            for name in self._fields(choice):
                index.setdefault(name, []).append(f"{key}.{name}")
        return index

    def _choices_with(self, group: str, name: str) -> list[Choice]:
        found = []
        for other in self.registry.names(group):
            try:
                choice = self.registry.choice(group, other)
                if choice.name == choice.base and name in self._fields(choice):
                    found.append(choice)
            except (ConfigError, UnknownKeyError):
                continue
        return found

    def _fields(self, choice: Choice) -> dict[str, FieldSchema]:
        try:
            return choice.schema.fields
        except ConfigError as error:
            raise UnknownKeyError(error.message, error.hint) from None

    def _meant(self, name: str, names: list[str], prefix: str, where: str) -> str:
        close = nearest(name, names)
        if close is not None:
            return f"did you mean '{prefix}.{close}'? ({where})"
        elsewhere = self._leaf_index().get(name)
        if elsewhere:
            return f"did you mean {elsewhere[0]!r}?"
        return f"{did_you_mean(name, names)} ({where})"

    def _names(self, group: str) -> str:
        return "known: " + ", ".join(self.registry.names(group))

    def _file(self, group: str, name: str) -> str:
        try:
            return shown(self.registry.choice(group, name).yaml)
        except ConfigError:
            return f"{shown(self.registry.root.parent / group)}/"

    def _root_file(self) -> str:
        return shown(self.registry.root)
