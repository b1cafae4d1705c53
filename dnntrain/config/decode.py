"""Convert plain containers to RunConfig; check every value against its field.

All errors are listed, each with its path. The checks read the source of the modules. The modules
themselves, and torch with them, are imported last, to build the values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dnntrain.config.build_choice import import_choice_class
from dnntrain.config.convert import convert_text, convert_value, to_plain
from dnntrain.config.groups import GROUPS, LISTS, SINGLE
from dnntrain.config.key_table import get_root_fields, get_section_fields
from dnntrain.config.registry import Choice, Registry, load_registry
from dnntrain.config.run_config import LIGHT_GROUPS, ROOT_KEYS, SECTIONS, LightConfig, RunConfig, TrainSection
from dnntrain.config.safety import find_key_problem
from dnntrain.config.saved_choice import find_saved_choice
from dnntrain.config.schema import FieldSchema
from dnntrain.config.yaml_io import format_path
from dnntrain.errors import ConfigError
from dnntrain.utils.explain_error import explain_lack_of_resources
from dnntrain.utils.suggest import did_you_mean
from dnntrain.utils.user_code import find_code_line


def decode_config(container: Mapping[str, Any], choice_registry: Registry | None = None) -> RunConfig:
    """Return the configuration as frozen values.

    Raises ConfigError that lists every mistake with its path.
    """
    decoder = _Decoder(container, choice_registry or load_registry())
    return decoder.make_run_config()


def decode_light_config(
    container: Mapping[str, Any], choice_registry: Registry | None = None
) -> tuple[LightConfig, dict[str, dict[str, Any]]]:
    """Return the part of the configuration whose modules import no torch, and constants of all choices.

    The constants are the literal class variables of each choice, by its setting as typed:
    `norm=sync`, `reg.dropout`. Raises ConfigError that lists every mistake of the whole
    configuration with its path.
    """
    decoder = _Decoder(container, choice_registry or load_registry())
    constants = {
        f"{key}={decoder.choice_names[key]}" if key in SINGLE else key: choice.schema.constants
        for key, choice in decoder.choice_by_key.items()
    }
    return decoder.make_light_config(), constants


def decode_to_plain(
    container: Mapping[str, Any],
    choice_registry: Registry | None = None,
    interpolated_keys: Collection[str] = (),
) -> dict[str, Any]:
    """Return `container` with every value in plain form and the keys in order.

    Makes the same checks as `decode_config`, but imports no module of a choice. The text of one of
    `interpolated_keys` may come from a variable, so it is read as YAML if its key does not take text.
    """
    return _Decoder(container, choice_registry or load_registry(), interpolated_keys).to_container()


class _Decoder:
    """Check a container once.

    `values` holds the converted options by key: "train", "optim", "augment.mixup", and "" for the
    root.
    """

    def __init__(
        self, container: Mapping[str, Any], choice_registry: Registry, interpolated_keys: Collection[str] = ()
    ) -> None:
        self.registry = choice_registry
        self.interpolated_keys = interpolated_keys
        self.mistakes: list[str] = []
        self.values: dict[str, dict[str, Any]] = {}
        self.choice_by_key: dict[str, Choice] = {}
        self._check_root(container)
        if self.mistakes:
            raise ConfigError.from_mistakes(self.mistakes)
        self.choice_names = self._list_choice_names(container)

    def to_container(self) -> dict[str, Any]:
        """Return the plain form, in the order of RunConfig."""
        result: dict[str, Any] = {name: to_plain(value) for name, value in self.values[""].items()}
        for section in SECTIONS:
            result[section] = _fields_to_plain(self.values[section])
        for group in SINGLE:
            result[group] = self._choice_to_plain(group)
        for group in LISTS:
            keys = [key for key in self.choice_by_key if key.startswith(f"{group}.")]
            result[group] = {key.partition(".")[2]: self._choice_to_plain(key) for key in keys}
        return {**result, "choices": self.choice_names}

    def make_run_config(self) -> RunConfig:
        """Return the typed form; this imports the modules of the chosen choices."""
        values = self._build_values(SINGLE)
        for group in LISTS:
            keys = [key for key in self.choice_by_key if key.startswith(f"{group}.")]
            values[group] = {key.partition(".")[2]: self._build_choice(key) for key in keys}
        self._set_duration(values)
        if self.mistakes:
            raise ConfigError.from_mistakes(self.mistakes)
        values["data"] = values["data"].choose_targets(values["task"].target_kind)
        return RunConfig(**values, resolved=self.to_container())

    def make_light_config(self) -> LightConfig:
        """Return the typed form of the sections and of the groups without torch."""
        values = self._build_values(LIGHT_GROUPS)
        self._set_duration(values)
        if self.mistakes:
            raise ConfigError.from_mistakes(self.mistakes)
        return LightConfig(**values, resolved=self.to_container())

    def _build_values(self, groups: Sequence[str]) -> dict[str, Any]:
        """Return the values of the root, of the sections, and of single groups."""
        sections = {name: self._construct_dataclass(name, section) for name, section in SECTIONS.items()}
        return {**self.values[""], **sections, **{group: self._build_choice(group) for group in groups}}

    def _set_duration(self, values: dict[str, Any]) -> None:
        """Set the length of a run that is stated in rounds; a debugging run keeps its own."""
        train, federated = values["train"], values["federated"]
        if train is None or federated is None or federated.rounds is None or self.choice_names["debug"]:
            return
        if train.duration != TrainSection().duration:
            self.mistakes.append(
                f"train.duration={train.duration} and federated.rounds={federated.rounds} both set the length of the run; "
                "keep one of them"
            )
        values["train"] = replace(train, duration=federated.set_duration(train.duration))

    def _check_root(self, container: Mapping[str, Any]) -> None:
        known_keys = [*ROOT_KEYS, *SECTIONS, *SINGLE, *LISTS, "choices"]
        for key in container:
            if reason := find_key_problem(str(key)):
                self.mistakes.append(f"{key}: {reason}")
            elif key not in known_keys:
                self.mistakes.append(f"{key}: there is no such key; {did_you_mean(str(key), known_keys)}")
        scalars = {name: container[name] for name in ROOT_KEYS if name in container}
        self._check_fields("", get_root_fields(), scalars)
        for section in SECTIONS:
            self._check_fields(section, get_section_fields(section), self._get_mapping(container, section))
        for group in SINGLE:
            self._check_choice(group, group, self._get_mapping(container, group), container)
        for group in LISTS:
            for name, values in self._get_mapping(container, group).items():
                key = f"{group}.{name}"
                if isinstance(values, Mapping):
                    self._check_choice(group, key, values, container)
                else:
                    self.mistakes.append(f"{key}: {values!r} is not a mapping of options")

    def _get_mapping(self, container: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        values = container.get(key, {} if key in LISTS else None)
        if isinstance(values, Mapping) and (values or key in LISTS):
            return values
        self.mistakes.append(f"{key}: it is missing" if not values else f"{key}: {values!r} is not a mapping")
        return {}

    def _check_choice(self, group: str, key: str, values: Mapping[str, Any], container: Mapping[str, Any]) -> None:
        if not values:
            return
        try:
            choice = find_saved_choice(group, key, values, container, self.registry)
            fields = choice.schema.fields
        except ConfigError as error:
            self.mistakes.append(str(error).replace("\n  ", "\n     "))
            return
        self.choice_by_key[key] = choice
        options = {name: value for name, value in values.items() if name != "name" or "name" in fields}
        self._check_fields(key, fields, options)

    def _check_fields(self, key: str, fields: dict[str, FieldSchema], values: Mapping[str, Any]) -> None:
        prefix = f"{key}." if key else ""
        converted: dict[str, Any] = {}
        for name in values:
            if reason := find_key_problem(str(name)):
                self.mistakes.append(f"{prefix}{name}: {reason}")
            elif name not in fields:
                self.mistakes.append(f"{prefix}{name}: there is no such key; {did_you_mean(str(name), list(fields))}")
        for name, field_schema in fields.items():
            if name not in values:
                location = f"{format_path(field_schema.path)}:{field_schema.line}"
                self.mistakes.append(
                    f"{prefix}{name}: it is missing; the default is {to_plain(field_schema.default)} ({location})"
                )
                continue
            try:
                is_interpolated = f"{prefix}{name}" in self.interpolated_keys
                convert = convert_text if is_interpolated else convert_value
                converted[name] = convert(values[name], field_schema.type)
            except ValueError as error:
                self.mistakes.append(f"{prefix}{name}: {error} ({format_path(field_schema.path)}:{field_schema.line})")
        self.values[key] = converted

    def _list_choice_names(self, container: Mapping[str, Any]) -> dict[str, Any]:
        """Return the choice of every group, by the name that is recorded for it.

        A recorded name stays if it is the decoded choice or the name of an unknown preset. It never
        replaces the decoded choice.
        """
        recorded_names = container.get("choices")
        recorded_names = recorded_names if isinstance(recorded_names, Mapping) else {}
        choices: dict[str, Any] = {}
        for group, group_info in GROUPS.items():
            recorded = recorded_names.get(group)
            if group_info.overlay:
                choices[group] = recorded if isinstance(recorded, str) else None
            elif group_info.single:
                decoded = self.choice_by_key[group].name
                choices[group] = recorded if self._is_valid_label(group, recorded, [decoded]) else decoded
            else:
                names = [choice.name for key, choice in self.choice_by_key.items() if key.startswith(f"{group}.")]
                is_valid = (
                    isinstance(recorded, list)
                    and len(recorded) == len(names)
                    and all(self._is_valid_label(group, item, names) for item in recorded)
                )
                choices[group] = list(recorded or ()) if is_valid else names
        return choices

    def _is_valid_label(self, group: str, label: Any, decoded: list[str]) -> bool:
        return isinstance(label, str) and (label in decoded or label not in self.registry.list_names(group))

    def _choice_to_plain(self, key: str) -> dict[str, Any]:
        return {"name": self.choice_by_key[key].base, **_fields_to_plain(self.values[key])}

    def _build_choice(self, key: str) -> Any:
        choice = self.choice_by_key[key]
        try:
            choice_class = import_choice_class(choice)
        except ImportError as error:
            if explain_lack_of_resources(error) is not None:
                raise
            code_line = find_code_line(error)
            place = f" ({code_line})" if code_line is not None else ""
            self.mistakes.append(f"{choice.group}={choice.name}: its module cannot be imported: {error}{place}")
            return None
        return self._construct_dataclass(key, choice_class)

    def _construct_dataclass(self, key: str, dataclass_type: type) -> Any:
        try:
            return dataclass_type(**self.values[key])
        except ValueError as error:
            self.mistakes.append(f"{key}: {error}")
            return None


def _fields_to_plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: to_plain(value) for name, value in values.items()}
