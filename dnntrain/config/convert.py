"""Checks one value against the annotation of its field, and describes annotations to people and to editors.

An annotation is one of the types of `fields.py`: bool, int, float, str, Literal, Duration, tuple, unions with None,
and these with bounds in `Annotated`.
"""

from __future__ import annotations

import math
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from dnntrain.config.fields import Range, Refused, Text, Units
from dnntrain.utils.suggest import did_you_mean
from dnntrain.utils.units import Duration

MISSING = "???"
_ON_OFF = {True: "on", False: "off"}


def convert(value: Any, annotation: Any) -> Any:
    """`value`, a plain value of YAML or the command line, as the type that `annotation` names.

    Raises ValueError with the bound.
    """
    bounds, kind = _taken_apart(annotation)
    if isinstance(value, str) and value == MISSING:
        raise ValueError("needs a value; it has no default")
    if get_origin(kind) in (Union, UnionType):
        return _convert_union(value, kind)
    for bound in bounds:
        if isinstance(bound, Refused) and value in bound.words:
            raise ValueError(f"{_quoted(value)} {bound.reason}")
    converted = _convert_kind(value, kind, annotation)
    for bound in bounds:
        if not _keeps(converted, bound):
            raise ValueError(f"{_quoted(value)} is not {describe(annotation)}")
    return converted


def plain(value: Any) -> Any:
    """A converted value as YAML and JSON hold it: durations as text, tuples as lists."""
    if isinstance(value, Duration):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


def describe(annotation: Any) -> str:
    """`a number above 0`, `one of off, on, auto` …: what a value must be, to follow "is not"."""
    bounds, kind = _taken_apart(annotation)
    bound = " and ".join(str(bound) for bound in bounds if not isinstance(bound, Units))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(describe(part) for part in sorted(get_args(kind), key=lambda part: part is NoneType))
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(plain(option)) for option in get_args(kind))
    if get_origin(kind) is tuple:
        return _describe_tuple(get_args(kind))
    if kind is Duration:
        units = next((bound for bound in bounds if isinstance(bound, Units)), Units("ep", "step", "s", "%"))
        return f"a duration{f' {bound}' if bound else ''}, such as {units}"
    if kind is str:
        return bound or "text"
    names: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", NoneType: "null"}
    return f"{names.get(kind, str(kind))} {bound}".strip()


def _taken_apart(annotation: Any) -> tuple[tuple[Any, ...], Any]:
    """The bounds of an annotation, and the type without them."""
    if get_origin(annotation) is Annotated:
        kind, *bounds = get_args(annotation)
        return tuple(bounds), kind
    return (), annotation


def _convert_union(value: Any, union: Any) -> Any:
    parts = get_args(union)
    if value is None:
        if NoneType in parts:
            return None
        raise ValueError(f"null is not {describe(union)}")
    problems = []
    for part in parts:
        if part is NoneType:
            continue
        try:
            return convert(value, part)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError(problems[0] if len(problems) == 1 else f"{_quoted(value)} is not {describe(union)}")


def _convert_kind(value: Any, kind: Any, annotation: Any) -> Any:
    if get_origin(kind) is Literal:
        return _convert_literal(value, get_args(kind))
    if get_origin(kind) is tuple:
        return _convert_tuple(value, get_args(kind), annotation)
    if kind is Duration and isinstance(value, str):
        return Duration.parse(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not {describe(annotation)}: it must be finite")
        return float(value)
    if kind is str and isinstance(value, str):
        return value
    if kind is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{_quoted(value)} is not {describe(annotation)}{_advice(value, kind)}")


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
    raise ValueError(f"{_quoted(value)} is not one of {', '.join(names)}{hint}")


def _convert_tuple(value: Any, parts: tuple[Any, ...], annotation: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{_quoted(value)} is not {describe(annotation)}")
    if len(parts) == 2 and parts[1] is Ellipsis:
        return tuple(convert(item, parts[0]) for item in value)
    if len(value) != len(parts):
        raise ValueError(f"{_quoted(value)} is not {describe(annotation)}")
    return tuple(convert(item, part) for item, part in zip(value, parts, strict=True))


def _keeps(value: Any, bound: Any) -> bool:
    if isinstance(bound, Range):
        return bound.holds(value.value if isinstance(value, Duration) else value)
    if isinstance(bound, Units):
        return value.unit in bound.names
    if isinstance(bound, Text):
        return bound.holds(value)
    return True


def _describe_tuple(parts: tuple[Any, ...]) -> str:
    if len(parts) == 2 and parts[1] is Ellipsis:
        return f"a list, each {describe(parts[0])}"
    if len(set(parts)) == 1:
        return f"a list of {len(parts)}, each {describe(parts[0])}"
    return "a list of " + ", ".join(describe(part) for part in parts)


def _advice(value: Any, kind: Any) -> str:
    if kind is bool and isinstance(value, str) and value.lower() in ("yes", "on", "1", "no", "off", "0"):
        return f"; write {'true' if value.lower() in ('yes', 'on', '1') else 'false'}"
    if kind is bool and value in (0, 1):
        return f"; write {'true' if value else 'false'}"
    if kind is int and isinstance(value, float) and math.isfinite(value) and value == int(value):
        return f"; write {int(value)}"
    if kind is Duration and isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"; add a unit: {value}ep or {value}step"
    if kind is str and isinstance(value, (bool, float)):
        return "; put it in quotes that the shell does not take away: '\"…\"'"
    return ""


def _quoted(value: Any) -> str:
    """The value as the user wrote it, shortened, without control characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value) if not isinstance(value, str) or not value.isprintable() or not value else f"'{value}'"
    return text if len(text) <= 60 else text[:57] + "…"
