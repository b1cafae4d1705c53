"""Check one value against the annotation of its field, and describe annotations.

An annotation is one of the types of `fields.py`: bool, int, float, str, Literal, Duration, tuple,
unions with None, and these with bounds in `Annotated`.
"""

from __future__ import annotations

import keyword
import math
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from dnntrain.config.fields import Arguments, Range, RefusedWords, Text, Units
from dnntrain.utils.suggest import did_you_mean
from dnntrain.utils.units import Duration

MISSING = "???"

#: The largest integer that torch and numpy compute with.
_MAX_INTEGER = 2**63 - 1
_ON_OFF = {True: "on", False: "off"}


def convert_value(value: Any, annotation: Any) -> Any:
    """Return a plain value of YAML or the command line as the type `annotation`.

    Raises ValueError with the bound.
    """
    bounds, bare_type = _split_annotation(annotation)
    if isinstance(value, str) and value == MISSING:
        raise ValueError("needs a value; there is no default")
    if get_origin(bare_type) in (Union, UnionType):
        return _convert_union(value, bare_type)
    for bound in bounds:
        if isinstance(bound, RefusedWords) and value in bound.words:
            raise ValueError(f"{_quote_value(value)} {bound.reason}")
    converted = _convert_bare_type(value, bare_type, annotation)
    for bound in bounds:
        if not _is_within_bound(converted, bound):
            raise ValueError(f"{_quote_value(value)} is not {describe_type(annotation)}")
    return converted


def convert_text(value: Any, annotation: Any) -> Any:
    """Return `convert_value` of a value whose texts may be numbers, as those of variables are.

    A text is read as YAML only if the annotation does not take it as it is: a name stays `007`.
    """
    try:
        return convert_value(value, annotation)
    except ValueError:
        parsed = _parse_texts(value)
        if parsed == value:
            raise
        return convert_value(parsed, annotation)


def _parse_texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_parse_texts(item) for item in value]
    if isinstance(value, dict):
        return {name: _parse_texts(item) for name, item in value.items()}
    if not isinstance(value, str) or not value.isprintable():
        return value
    from dnntrain.config.yaml_io import parse_yaml
    from dnntrain.errors import ConfigError

    try:
        return parse_yaml(f"value: {value}", "the value")[0].get("value")
    except ConfigError:
        return value


def to_plain(value: Any) -> Any:
    """Return a converted value in its YAML and JSON form: durations as text, tuples as lists."""
    if isinstance(value, Duration):
        return str(value)
    if isinstance(value, Arguments):
        return to_plain(value.values)
    if isinstance(value, dict):
        return {name: to_plain(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    return value


def describe_type(annotation: Any) -> str:
    """Return a description to follow "is not": `a number above 0`, `one of off, on, auto` …"""
    bounds, bare_type = _split_annotation(annotation)
    bound = " and ".join(str(bound) for bound in bounds if not isinstance(bound, Units))
    if get_origin(bare_type) in (Union, UnionType):
        return " or ".join(
            describe_type(variant) for variant in sorted(get_args(bare_type), key=lambda variant: variant is NoneType)
        )
    if get_origin(bare_type) is Literal:
        return "one of " + ", ".join(str(to_plain(option)) for option in get_args(bare_type))
    if get_origin(bare_type) is tuple:
        return _describe_tuple(get_args(bare_type))
    if bare_type is Duration:
        units = next((bound for bound in bounds if isinstance(bound, Units)), Units("ep", "step", "s", "%"))
        return f"a duration{f' {bound}' if bound else ''}, such as {units}"
    if bare_type is str:
        return bound or "text"
    if bare_type is Arguments:
        return "a mapping of names to values, such as {width: 32}"
    names: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", NoneType: "null"}
    return f"{names.get(bare_type, str(bare_type))} {bound}".strip()


def _split_annotation(annotation: Any) -> tuple[tuple[Any, ...], Any]:
    """Return the bounds of an annotation, and the type without them."""
    if get_origin(annotation) is Annotated:
        bare_type, *bounds = get_args(annotation)
        return tuple(bounds), bare_type
    return (), annotation


def _convert_union(value: Any, union: Any) -> Any:
    variants = get_args(union)
    if value is None:
        if NoneType in variants:
            return None
        raise ValueError(f"null is not {describe_type(union)}")
    problems = []
    for variant in variants:
        if variant is NoneType:
            continue
        try:
            return convert_value(value, variant)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError(problems[0] if len(problems) == 1 else f"{_quote_value(value)} is not {describe_type(union)}")


def _convert_bare_type(value: Any, bare_type: Any, annotation: Any) -> Any:
    if get_origin(bare_type) is Literal:
        return _convert_literal(value, get_args(bare_type))
    if get_origin(bare_type) is tuple:
        return _convert_tuple(value, get_args(bare_type), annotation)
    if bare_type is Arguments and isinstance(value, dict):
        return _convert_arguments(value)
    if bare_type is Duration and isinstance(value, str):
        return Duration.parse(value)
    if bare_type is bool and isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) > _MAX_INTEGER:
        raise ValueError(f"{_quote_value(value)} is not {describe_type(annotation)}: it must be at most 2^63 - 1")
    if bare_type is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if bare_type is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not {describe_type(annotation)}: it must be finite")
        return float(value)
    if bare_type is str and isinstance(value, str):
        return value
    if bare_type is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{_quote_value(value)} is not {describe_type(annotation)}{_suggest_fix(value, bare_type)}")


def _convert_arguments(values: dict[str, Any]) -> Arguments:
    for name, value in values.items():
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"{_quote_value(name)} cannot be the name of an argument")
        if value == MISSING:
            raise ValueError(f"{name} needs a value; there is no default")
    return Arguments(values)


def _convert_literal(value: Any, options: tuple[Any, ...]) -> Any:
    for option in options:
        if type(option) is type(value) and option == value:
            return option
    # YAML reads a bare `on` or `off` as a boolean.
    if isinstance(value, bool) and _ON_OFF[value] in options:
        return _ON_OFF[value]
    names = [str(option) for option in options]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and str(value) in options:
        return str(value)
    hint = (
        f"; {did_you_mean(value, names)}" if isinstance(value, str) and did_you_mean(value, names)[:3] == "did" else ""
    )
    raise ValueError(f"{_quote_value(value)} is not one of {', '.join(names)}{hint}")


def _convert_tuple(value: Any, item_types: tuple[Any, ...], annotation: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{_quote_value(value)} is not {describe_type(annotation)}")
    if len(item_types) == 2 and item_types[1] is Ellipsis:
        return tuple(convert_value(item, item_types[0]) for item in value)
    if len(value) != len(item_types):
        raise ValueError(f"{_quote_value(value)} is not {describe_type(annotation)}")
    return tuple(convert_value(item, item_type) for item, item_type in zip(value, item_types, strict=True))


def _is_within_bound(value: Any, bound: Any) -> bool:
    if isinstance(bound, Range):
        return bound.contains(value.value if isinstance(value, Duration) else value)
    if isinstance(bound, Units):
        return value.unit in bound.names
    if isinstance(bound, Text):
        return bound.matches(value)
    return True


def _describe_tuple(item_types: tuple[Any, ...]) -> str:
    if len(item_types) == 2 and item_types[1] is Ellipsis:
        return f"a list, each {describe_type(item_types[0])}"
    if len(set(item_types)) == 1:
        return f"a list of {len(item_types)}, each {describe_type(item_types[0])}"
    return "a list of " + ", ".join(describe_type(item_type) for item_type in item_types)


def _suggest_fix(value: Any, bare_type: Any) -> str:
    if bare_type is bool and isinstance(value, str) and value.lower() in ("yes", "on", "1", "no", "off", "0"):
        return f"; write {'true' if value.lower() in ('yes', 'on', '1') else 'false'}"
    if bare_type is bool and value in (0, 1):
        return f"; write {'true' if value else 'false'}"
    if bare_type is int and isinstance(value, float) and math.isfinite(value) and value == int(value):
        return f"; write {int(value)}"
    if bare_type is Duration and isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"; add a unit: {value}ep or {value}step"
    if bare_type is str and isinstance(value, (bool, float)):
        return "; put it in quotes that the shell does not remove: '\"…\"'"
    return ""


def _quote_value(value: Any) -> str:
    """Return the value as the user wrote it, shortened, without control characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and abs(value) > 10**60:
        # Python does not write out integers of more than 4300 digits.
        return f"an integer of about {int(value.bit_length() * math.log10(2)) + 1} digits"
    text = repr(value) if not isinstance(value, str) or not value.isprintable() or not value else f"'{value}'"
    return text if len(text) <= 60 else text[:57] + "…"
