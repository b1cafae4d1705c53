"""A schedule written as one text, as a part of a sequence or the base of another: `NAME[:DURATION][:KNOB=VALUE]…`.

    cosine    cosine:90%    step:60ep:every=20ep:gamma=0.5    multistep:milestones=30%/60%

A list is written with slashes.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, get_origin

from dnntrain.choices.sched._base import Schedule
from dnntrain.config.convert import convert
from dnntrain.config.registry import registry
from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import did_you_mean
from dnntrain.utils.units import Duration


@dataclass(frozen=True)
class Written:
    """The schedule that a text describes, and its length where one is given."""

    schedule: Schedule
    duration: Duration | None


def written(text: str, key: str, without: tuple[str, ...]) -> Written:
    """Reads one text. Knobs whose names begin with one of `without` are the whole schedule's, and refused.

    Raises ConfigError, naming `key`, for a schedule, knob or value that cannot be.
    """
    name, *words = text.split(":")
    try:
        choice = registry().choice("sched", name)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error.message}", error.hint) from None
    if choice.module is None or choice.name != choice.base:
        raise ConfigError(f"{key}: {name} is a preset of {choice.base}", f"write {choice.base} with its knobs")
    kind = getattr(importlib.import_module(choice.module), choice.schema.class_name)
    if not issubclass(kind, Schedule):
        raise ConfigError(f"{key}: {name} has no curve of its own", "use a schedule that depends on progress alone")
    duration: Duration | None = None
    knobs: dict[str, Any] = {}
    for number, word in enumerate(words):
        knob, equals, value = word.partition("=")
        try:
            if not equals and number == 0:
                duration = Duration.parse(word)
                continue
            allowed = [item for item in choice.schema.fields if not item.startswith(without)]
            if not equals or knob not in allowed:
                raise ValueError(f"{knob!r} is no knob here; {did_you_mean(knob, allowed)}")
            annotation = choice.schema.fields[knob].type
            knobs[knob] = convert(_plain(value, annotation), annotation)
        except ValueError as error:
            raise ConfigError(f"{key}: {text}: {error}") from None
    return Written(kind(**knobs), duration)


def _plain(text: str, annotation: Any) -> Any:
    """The value as YAML would give it."""
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
