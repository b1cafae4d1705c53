"""Plain containers → RunConfig: every value checked against its field, every error listed with its path.

The checks read the modules' source; the modules themselves, and with them torch, are imported last, to build the
values.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnntrain.config.convert import convert, plain
from dnntrain.config.groups import GROUPS, LISTS, SINGLE
from dnntrain.config.key_table import scalar_fields, section_fields
from dnntrain.config.registry import Choice, Registry, registry
from dnntrain.config.run_config import SCALARS, SECTIONS, RunConfig
from dnntrain.config.safety import refused_key
from dnntrain.config.schema import FieldSchema
from dnntrain.config.yaml_io import read_yaml, shown
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.utils.suggest import did_you_mean

#: Root keys that say where a run is kept and how it is named, not what it computes.
_NOT_IN_DIGEST = ("choices", "name", "run_dir", "resume")


def decode(container: Mapping[str, Any], known: Registry | None = None) -> RunConfig:
    """The configuration as frozen values. Raises ConfigError that lists every mistake with its path."""
    decoder = _Decoder(container, known or registry())
    return decoder.run_config()


def decode_schema_only(container: Mapping[str, Any], known: Registry | None = None) -> dict[str, Any]:
    """The same checks, importing no module of a choice: `container` with every value in plain form, keys in order."""
    return _Decoder(container, known or registry()).container()


def decode_choice(group: str, name: str, knobs: Mapping[str, Any], known: Registry | None = None) -> Any:
    """One choice of `group` with `knobs` in plain form, as a model's config.json holds them; those that are missing keep their defaults.

    Raises ConfigError where there is no such choice, or a knob is unknown or refused.
    """
    choice = (known or registry()).choice(group, name)
    fields, values, mistakes = choice.schema.fields, {}, []
    for knob, value in knobs.items():
        if knob == "name" and knob not in fields:
            continue
        try:
            if knob not in fields:
                raise ValueError(f"there is no such key; {did_you_mean(str(knob), list(fields))}")
            values[knob] = convert(value, fields[knob].type)
        except ValueError as error:
            mistakes.append(f"{group}.{knob}: {error}")
    if mistakes:
        raise ConfigError.of(mistakes)
    assert choice.module is not None
    return getattr(importlib.import_module(choice.module), choice.schema.class_name)(**values)


def load_config(path: Path) -> dict[str, Any]:
    """The saved configuration at `path`, as strict as `decode`.

    Raises CheckpointError where the file is missing or damaged, ConfigError where a value in it is refused.
    """
    try:
        saved = read_yaml(path)
    except ConfigError as error:
        raise CheckpointError(f"the saved configuration cannot be used: {error.message}", error.hint) from None
    if saved.defaults:
        raise CheckpointError(f"{shown(path)} is no saved configuration: it has a defaults list")
    try:
        return decode_schema_only(saved.values)
    except ConfigError as error:
        raise ConfigError(f"{shown(path)}: {error.message}", error.hint, error.mistakes) from None


def digest(container: Mapping[str, Any]) -> str:
    """sha256 of what the run computes: canonical JSON of the container without name, run_dir, resume and choices."""
    computed = {key: value for key, value in container.items() if key not in _NOT_IN_DIGEST}
    text = json.dumps(computed, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


class _Decoder:
    """Checks a container once; `values` holds the converted knobs by key: "train", "optim", "reg.mixup", "" (root)."""

    def __init__(self, container: Mapping[str, Any], known: Registry) -> None:
        self.known = known
        self.mistakes: list[str] = []
        self.values: dict[str, dict[str, Any]] = {}
        self.chosen: dict[str, Choice] = {}
        self._check_root(container)
        if self.mistakes:
            raise ConfigError.of(self.mistakes)
        self.choices = self._choices(container)

    def container(self) -> dict[str, Any]:
        """The plain form, in the order of RunConfig."""
        result: dict[str, Any] = {name: plain(value) for name, value in self.values[""].items()}
        for section in SECTIONS:
            result[section] = _plain_fields(self.values[section])
        for group in SINGLE:
            result[group] = self._plain_choice(group)
        for group in LISTS:
            keys = [key for key in self.chosen if key.startswith(f"{group}.")]
            result[group] = {key.partition(".")[2]: self._plain_choice(key) for key in keys}
        return {**result, "choices": self.choices}

    def run_config(self) -> RunConfig:
        """The typed form; imports the modules of the chosen choices."""
        values: dict[str, Any] = dict(self.values[""])
        for section, kind in SECTIONS.items():
            values[section] = self._construct(section, kind)
        for group in SINGLE:
            values[group] = self._build(group)
        for group in LISTS:
            keys = [key for key in self.chosen if key.startswith(f"{group}.")]
            values[group] = {key.partition(".")[2]: self._build(key) for key in keys}
        if self.mistakes:
            raise ConfigError.of(self.mistakes)
        return RunConfig(**values, resolved=self.container())

    def _check_root(self, container: Mapping[str, Any]) -> None:
        known = [*SCALARS, *SECTIONS, *SINGLE, *LISTS, "choices"]
        for key in container:
            if reason := refused_key(str(key)):
                self.mistakes.append(f"{key}: {reason}")
            elif key not in known:
                self.mistakes.append(f"{key}: there is no such key; {did_you_mean(str(key), known)}")
        scalars = {name: container[name] for name in SCALARS if name in container}
        self._check_fields("", scalar_fields(), scalars)
        for section in SECTIONS:
            self._check_fields(section, section_fields(section), self._mapping(container, section))
        for group in SINGLE:
            self._check_choice(group, group, self._mapping(container, group), container)
        for group in LISTS:
            for name, values in self._mapping(container, group).items():
                key = f"{group}.{name}"
                if isinstance(values, Mapping):
                    self._check_choice(group, key, values, container)
                else:
                    self.mistakes.append(f"{key}: {values!r} is not a mapping of knobs")

    def _mapping(self, container: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        values = container.get(key, {} if key in LISTS else None)
        if isinstance(values, Mapping):
            return values
        self.mistakes.append(f"{key}: it is missing" if values is None else f"{key}: {values!r} is not a mapping")
        return {}

    def _check_choice(self, group: str, key: str, values: Mapping[str, Any], container: Mapping[str, Any]) -> None:
        if not values:
            return
        try:
            choice = self._choice(group, key, values, container)
            fields = choice.schema.fields
        except ConfigError as error:
            self.mistakes.append(str(error).replace("\n  ", "\n     "))
            return
        self.chosen[key] = choice
        knobs = {name: value for name, value in values.items() if name != "name" or "name" in fields}
        self._check_fields(key, fields, knobs)

    def _choice(self, group: str, key: str, values: Mapping[str, Any], container: Mapping[str, Any]) -> Choice:
        """The choice that built `values`: named by `choices` where it is still known, else by `name`."""
        recorded = container.get("choices")
        recorded = recorded.get(group) if isinstance(recorded, Mapping) else None
        name = values.get("name")
        for candidate in recorded if isinstance(recorded, list) else [recorded]:
            if not isinstance(candidate, str) or candidate not in self.known.names(group):
                continue
            choice = self.known.choice(group, candidate)
            if choice.key == key and (choice.base == name or "name" in choice.schema.fields):
                return choice
        if not isinstance(name, str):
            raise ConfigError(f"{key}.name: {name!r} does not name a choice of {group}")
        choice = self.known.choice(group, name)
        if choice.key != key or choice.base != name:
            raise ConfigError(f"{key}.name: {name} is not the choice that stands here; it would be {choice.base}")
        return choice

    def _check_fields(self, key: str, fields: dict[str, FieldSchema], values: Mapping[str, Any]) -> None:
        prefix = f"{key}." if key else ""
        converted: dict[str, Any] = {}
        for name in values:
            if reason := refused_key(str(name)):
                self.mistakes.append(f"{prefix}{name}: {reason}")
            elif name not in fields:
                self.mistakes.append(f"{prefix}{name}: there is no such key; {did_you_mean(str(name), list(fields))}")
        for name, knob in fields.items():
            if name not in values:
                where = f"{shown(knob.path)}:{knob.line}"
                self.mistakes.append(f"{prefix}{name}: it is missing; the default is {plain(knob.default)} ({where})")
                continue
            try:
                converted[name] = convert(values[name], knob.type)
            except ValueError as error:
                self.mistakes.append(f"{prefix}{name}: {error} ({shown(knob.path)}:{knob.line})")
        self.values[key] = converted

    def _choices(self, container: Mapping[str, Any]) -> dict[str, Any]:
        """The recorded choices, or what `name` says where none are recorded."""
        recorded = container.get("choices")
        recorded = recorded if isinstance(recorded, Mapping) else {}
        choices: dict[str, Any] = {}
        for group, kind in GROUPS.items():
            if kind.overlay:
                choices[group] = recorded.get(group)
            elif kind.single:
                choices[group] = recorded.get(group, self.chosen[group].name)
            else:
                choices[group] = list(
                    recorded.get(group) or [key.partition(".")[2] for key in self.chosen if key.startswith(f"{group}.")]
                )
        return choices

    def _plain_choice(self, key: str) -> dict[str, Any]:
        return {"name": self.chosen[key].base, **_plain_fields(self.values[key])}

    def _build(self, key: str) -> Any:
        choice = self.chosen[key]
        assert choice.module is not None
        try:
            module = importlib.import_module(choice.module)
        except ImportError as error:
            self.mistakes.append(f"{choice.group}={choice.name}: its module cannot be imported: {error}")
            return None
        return self._construct(key, getattr(module, choice.schema.class_name))

    def _construct(self, key: str, kind: type) -> Any:
        try:
            return kind(**self.values[key])
        except ValueError as error:
            self.mistakes.append(f"{key}: {error}")
            return None


def _plain_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: plain(value) for name, value in values.items()}
