"""List the keys that a selection allows, and suggest a key for every unknown one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dnntrain.config import run_config
from dnntrain.config.fields import Arguments
from dnntrain.config.groups import GROUPS, LISTS, OVERLAYS, SINGLE
from dnntrain.config.registry import Choice, Registry
from dnntrain.config.schema import FieldSchema, read_class_fields
from dnntrain.config.selection import Selection
from dnntrain.config.yaml_io import format_path
from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import compute_edit_distance, did_you_mean, find_nearest

_RUN_FILE = Path(run_config.__file__)


class UnknownKeyError(Exception):
    """A key that the configuration does not have, with the problem and a suggestion."""

    def __init__(self, problem: str, hint: str, *, is_option_elsewhere: bool = False) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint
        self.is_option_elsewhere = is_option_elsewhere  # another choice of the group has the option

    @property
    def has_nearest(self) -> bool:
        """Whether the hint names a key or a line that works."""
        return self.hint.startswith(("did you mean", "add +", "write "))


@cache
def get_root_fields() -> dict[str, FieldSchema]:
    """Return the plain values at the root: `seed`, `device` …"""
    return read_class_fields(_RUN_FILE, run_config.RootSection.__name__)


@cache
def get_section_fields(section: str) -> dict[str, FieldSchema]:
    """Return the keys of a section: `train`, `eval`, `checkpoint` or `log`."""
    return read_class_fields(_RUN_FILE, run_config.SECTIONS[section].__name__)


@dataclass
class KeyTable:
    """Find the field that a key names under a selection of choices."""

    registry: Registry
    selection: Selection

    def find_field(self, keys: tuple[str, ...]) -> FieldSchema | None:
        """Return the field that `keys` name.

        Returns None if the choice of its group is itself a mistake, and for an argument of the user's
        code, which may have any value. Raises UnknownKeyError with the
        nearest key and the file that defines it.
        """
        first, *rest = keys
        if first in get_root_fields():
            return self._check_leaf(get_root_fields()[first], keys, depth=1)
        if first in run_config.SECTIONS:
            return self._find_in_section(get_section_fields(first), first, keys, depth=1)
        if first in SINGLE:
            if not rest:
                raise UnknownKeyError(f"{first} is a group", f"choose with {first}=CHOICE; {self._list_names(first)}")
            choice = self.selection.choice_by_key.get(first)
            return None if choice is None else self._find_in_choice(choice, keys, depth=1)
        if first in LISTS:
            return self._find_in_list(first, keys)
        if first in OVERLAYS:
            raise UnknownKeyError(
                f"{first} is a group of overlays", f"choose with {first}=NAME; {self._list_names(first)}"
            )
        raise self._make_unknown_root_error(keys)

    def _find_in_choice(self, choice: Choice, keys: tuple[str, ...], depth: int) -> FieldSchema | None:
        fields = self._get_fields(choice)
        name = keys[depth]
        if name in fields:
            return self._check_leaf(fields[name], keys, depth + 1)
        choice_label = f"{choice.group}={choice.name}" if GROUPS[choice.group].single else choice.key
        if name == "name":
            option_list = f"; the options of {choice_label} are {', '.join(fields)}" if fields else ""
            raise UnknownKeyError(
                f"{choice.key}.name cannot be set, because it records the choice",
                f"choose with {choice.group}=NAME{option_list}",
            )
        other_choices = self._find_choices_with(choice.group, name) if GROUPS[choice.group].single else []
        if other_choices:
            files = ", ".join(f"{choice.group}={other.name} ({format_path(other.yaml)})" for other in other_choices[:3])
            more = f" and {len(other_choices) - 3} more" if len(other_choices) > 3 else ""
            raise UnknownKeyError(
                f"{choice_label} has no {name!r}", f"it belongs to {files}{more}", is_option_elsewhere=True
            )
        location = format_path(choice.chain[0].path)
        if not fields:
            raise UnknownKeyError(f"{choice_label} has no {name!r}", f"it has no options ({location})")
        raise UnknownKeyError(
            f"{choice_label} has no {name!r}", self._suggest_key(name, list(fields), choice.key, location)
        )

    def _find_in_list(self, group: str, keys: tuple[str, ...]) -> FieldSchema | None:
        if len(keys) < 2:
            raise UnknownKeyError(f"{group} must be a list of choices", f"write {group}=[NAME,…]")
        name = keys[1]
        choice = self.selection.choice_by_key.get(f"{group}.{name}")
        if choice is not None:
            if len(keys) < 3:
                raise UnknownKeyError(
                    f"{group}.{name} is chosen by {group}=[…]", f"set its options: {group}.{name}.OPTION=VALUE"
                )
            return self._find_in_choice(choice, keys, depth=2)
        for key, other_choice in self.selection.choice_by_key.items():
            if other_choice.group == group and other_choice.name == name:
                raise UnknownKeyError(
                    f"the options of {group}={name} are under {key}", f"write {'.'.join((key, *keys[2:]))}"
                )
        chosen_names = [key.partition(".")[2] for key in self.selection.choice_by_key if key.startswith(f"{group}.")]
        known_names = self.registry.list_names(group)
        if name in known_names:
            raise UnknownKeyError(
                f"{group}.{name} is not chosen", f"add +{group}=[{name}] to use it ({self._locate_choice(group, name)})"
            )
        if near_key_hint := self._suggest_full_key(keys):
            raise UnknownKeyError(f"{group} has no choice {name!r}", near_key_hint)
        nearest_name = find_nearest(name, chosen_names) or find_nearest(name, known_names)
        if nearest_name is None:
            raise UnknownKeyError(f"{group} has no choice {name!r}", self._list_names(group))
        addition = "" if nearest_name in chosen_names else f", with +{group}=[{nearest_name}]"
        location = self._locate_choice(group, nearest_name)
        hint = f"did you mean {'.'.join((group, nearest_name, *keys[2:]))!r}{addition}? ({location})"
        raise UnknownKeyError(f"{group} has no choice {name!r}", hint)

    def _find_in_section(
        self, fields: dict[str, FieldSchema], prefix: str, keys: tuple[str, ...], depth: int
    ) -> FieldSchema | None:
        if len(keys) == depth:
            raise UnknownKeyError(
                f"{prefix} is a section", f"set its keys one by one, as in {prefix}.{next(iter(fields))}=…"
            )
        name = keys[depth]
        if name in fields:
            return self._check_leaf(fields[name], keys, depth + 1)
        raise UnknownKeyError(
            f"{prefix} has no key {name!r}", self._suggest_key(name, list(fields), prefix, self._show_root_file())
        )

    def _check_leaf(self, field_schema: FieldSchema, keys: tuple[str, ...], depth: int) -> FieldSchema | None:
        if len(keys) > depth and field_schema.type is Arguments:
            return None  # any value: the code that takes the argument knows its type
        if len(keys) > depth:
            hint = f"write {'.'.join(keys[:depth])}=VALUE ({format_path(field_schema.path)}:{field_schema.line})"
            raise UnknownKeyError(f"{'.'.join(keys[:depth])} is a value and has no keys below it", hint)
        return field_schema

    def _make_unknown_root_error(self, keys: tuple[str, ...]) -> UnknownKeyError:
        """Return the error for an unknown first key.

        The key is a misspelled group, section or root key, or a key without its section.
        """
        first = keys[0]
        problem = f"there is no key {'.'.join(keys)!r}"
        leaves = self._build_leaf_index()
        if len(keys) == 1 and first in leaves:
            return UnknownKeyError(
                problem, "did you mean " + " or ".join(repr(near_key_hint) for near_key_hint in leaves[first]) + "?"
            )
        for group in LISTS:
            if first in self.registry.list_names(group):
                return UnknownKeyError(
                    problem, f"did you mean +{group}=[{first}]? ({self._locate_choice(group, first)})"
                )
        if near_key_hint := self._suggest_full_key(keys):
            return UnknownKeyError(problem, near_key_hint)
        known_keys = [*GROUPS, *run_config.SECTIONS, *get_root_fields()]
        first_keys = known_keys if len(keys) == 1 else [*GROUPS, *run_config.SECTIONS]
        nearest_key = find_nearest(first, first_keys)
        if nearest_key is not None:
            location = (
                f"{format_path(self.registry.root.parent / nearest_key)}/"
                if nearest_key in GROUPS
                else self._show_root_file()
            )
            return UnknownKeyError(problem, f"did you mean {'.'.join((nearest_key, *keys[1:]))!r}? ({location})")
        nearest_key = find_nearest(keys[-1], list(leaves))
        if nearest_key is not None:
            return UnknownKeyError(
                problem,
                "did you mean " + " or ".join(repr(near_key_hint) for near_key_hint in leaves[nearest_key]) + "?",
            )
        return UnknownKeyError(problem, "known: " + ", ".join(sorted(known_keys)))

    def _suggest_full_key(self, keys: tuple[str, ...]) -> str:
        """Return a hint with the full key at most two letters away from `keys`, or ""."""
        typed_key = ".".join(keys)
        file_by_key = {key: file for key, file in self._iterate_full_keys() if abs(len(key) - len(typed_key)) <= 2}
        nearest_key = find_nearest(typed_key, list(file_by_key))
        if nearest_key is None or compute_edit_distance(typed_key, nearest_key) > 2:
            return ""
        return f"did you mean {nearest_key!r}? ({file_by_key[nearest_key]})"

    def _iterate_full_keys(self) -> Iterator[tuple[str, str]]:
        """Yield every key of this selection, groups included, with the file that defines it."""
        conf = self.registry.root.parent
        yield from ((group, f"{format_path(conf / group)}/") for group in GROUPS)
        yield from ((name, self._show_root_file()) for name in get_root_fields())
        yield from (
            (f"{section}.{name}", self._show_root_file())
            for section in run_config.SECTIONS
            for name in get_section_fields(section)
        )
        for key, choice in self.selection.choice_by_key.items():
            yield from ((f"{key}.{name}", format_path(choice.chain[0].path)) for name in self._get_fields(choice))

    def _build_leaf_index(self) -> dict[str, list[str]]:
        """Map the last part of each key of the sections and the chosen choices to the full keys."""
        index: dict[str, list[str]] = {}
        for section in run_config.SECTIONS:
            for name in get_section_fields(section):
                index.setdefault(name, []).append(f"{section}.{name}")
        for key, choice in self.selection.choice_by_key.items():
            for name in self._get_fields(choice):
                index.setdefault(name, []).append(f"{key}.{name}")
        return index

    def _find_choices_with(self, group: str, name: str) -> list[Choice]:
        choices = []
        for choice_name in self.registry.list_names(group):
            try:
                choice = self.registry.get_choice(group, choice_name)
                if choice.name == choice.base and name in self._get_fields(choice):
                    choices.append(choice)
            except (ConfigError, UnknownKeyError):
                continue
        return choices

    def _get_fields(self, choice: Choice) -> dict[str, FieldSchema]:
        try:
            return choice.schema.fields
        except ConfigError as error:
            raise UnknownKeyError(error.message, error.hint) from None

    def _suggest_key(self, name: str, names: list[str], prefix: str, location: str) -> str:
        nearest_name = find_nearest(name, names)
        if nearest_name is not None:
            return f"did you mean '{prefix}.{nearest_name}'? ({location})"
        keys_elsewhere = self._build_leaf_index().get(name)
        if keys_elsewhere:
            return f"did you mean {keys_elsewhere[0]!r}?"
        return f"{did_you_mean(name, names)} ({location})"

    def _list_names(self, group: str) -> str:
        return "known: " + ", ".join(self.registry.list_names(group))

    def _locate_choice(self, group: str, name: str) -> str:
        try:
            return format_path(self.registry.get_choice(group, name).yaml)
        except ConfigError:
            return f"{format_path(self.registry.root.parent / group)}/"

    def _show_root_file(self) -> str:
        return format_path(self.registry.root)
