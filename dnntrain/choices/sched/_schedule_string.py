"""Parser of a schedule written as text: `NAME[:DURATION][:KEY=VALUE]…`.

The text is a stage of a sequence or the base of another schedule:

    cosine    cosine:90%    step:60ep:step_size=20ep:gamma=0.5    multistep:milestones=30%/60%

A list is written with slashes.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, get_origin

from dnntrain.choices.sched._base import Schedule
from dnntrain.config.convert import convert_value
from dnntrain.config.registry import load_registry
from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import did_you_mean
from dnntrain.utils.units import Duration


@dataclass(frozen=True)
class ParsedSchedule:
    """The schedule that a text describes, and its length if one is given."""

    schedule: Schedule
    duration: Duration | None


def parse_schedule(text: str, key: str, excluded_prefixes: tuple[str, ...]) -> ParsedSchedule:
    """Parse one text.

    Options whose names begin with one of `excluded_prefixes` belong to the whole schedule and are
    not accepted. Raises ConfigError, which names `key`, for an invalid schedule, option or value.
    """
    name, *option_texts = text.split(":")
    try:
        choice = load_registry().get_choice("sched", name)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error.message}", error.hint) from None
    if choice.module is None or choice.name != choice.base:
        raise ConfigError(f"{key}: {name} is a preset of {choice.base}", f"write {choice.base} with its options")
    schedule_class = getattr(importlib.import_module(choice.module), choice.schema.class_name)
    if not issubclass(schedule_class, Schedule):
        raise ConfigError(f"{key}: {name} has no curve of its own", "use a schedule that depends on progress alone")
    duration: Duration | None = None
    options: dict[str, Any] = {}
    for number, option_text in enumerate(option_texts):
        option, equals, value = option_text.partition("=")
        try:
            if not equals and number == 0:
                duration = Duration.parse(option_text)
                continue
            allowed_options = [item for item in choice.schema.fields if not item.startswith(excluded_prefixes)]
            if not equals or option not in allowed_options:
                raise ValueError(f"{option!r} is not an option here; {did_you_mean(option, allowed_options)}")
            annotation = choice.schema.fields[option].type
            options[option] = convert_value(_parse_plain_value(value, annotation), annotation)
        except ValueError as error:
            raise ConfigError(f"{key}: {text}: {error}") from None
    return ParsedSchedule(schedule_class(**options), duration)


def _parse_plain_value(text: str, annotation: Any) -> Any:
    """Return the value as YAML would parse it."""
    if get_origin(annotation) is tuple:
        return text.split("/")
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
