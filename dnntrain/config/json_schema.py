"""Make the JSON Schema (draft 2020-12) of a saved configuration, for editors. Imports neither hydra nor torch."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from dnntrain.config.convert import to_plain
from dnntrain.config.fields import Arguments, Duration, Range, Text, Units
from dnntrain.config.groups import GROUPS, LISTS, SINGLE
from dnntrain.config.key_table import get_root_fields, get_section_fields
from dnntrain.config.registry import Choice, Registry
from dnntrain.config.run_config import SECTIONS
from dnntrain.config.schema import REQUIRED, FieldSchema

_UNITS = {"step": "steps?", "ep": "(ep|epochs?)", "s": "(s|sec)", "%": "%"}


def make_json_schema(choice_registry: Registry) -> dict[str, Any]:
    """Return the schema of config.yaml; the key `name` selects the schema of a choice."""
    properties = {name: _make_field_schema(option) for name, option in get_root_fields().items()}
    for section, kind in SECTIONS.items():
        properties[section] = {"description": kind.__doc__, **_make_object_schema(get_section_fields(section))}
    for group in SINGLE:
        bases = _list_base_choices(choice_registry, group)
        properties[group] = {"description": GROUPS[group].doc, "oneOf": [_make_choice_schema(base) for base in bases]}
    for group in LISTS:
        members = {base.name: _make_choice_schema(base) for base in _list_base_choices(choice_registry, group)}
        properties[group] = {
            "description": GROUPS[group].doc,
            "type": "object",
            "properties": members,
            "additionalProperties": False,
        }
    properties["choices"] = {
        "description": "the name chosen in each group, presets and overlays included",
        "type": "object",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dnntrain configuration",
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in (*LISTS, "choices")],
        "additionalProperties": False,
    }


def make_type_schema(annotation: Any) -> dict[str, Any]:
    """Return the schema of plain values that `convert_value` accepts for `annotation`."""
    bounds: tuple[Any, ...] = ()
    if get_origin(annotation) is Annotated:
        annotation, *rest = get_args(annotation)
        bounds = tuple(rest)
    if get_origin(annotation) in (Union, UnionType):
        return {"anyOf": [make_type_schema(part) for part in get_args(annotation)]}
    if get_origin(annotation) is Literal:
        return {"enum": [to_plain(option) for option in get_args(annotation)]}
    if get_origin(annotation) is tuple:
        return _make_tuple_schema(get_args(annotation))
    if annotation is Duration:
        units = next((bound.names for bound in bounds if isinstance(bound, Units)), tuple(_UNITS))
        pattern = "|".join(_UNITS[unit] for unit in units)
        return {"type": "string", "pattern": rf"^\s*\d+(\.\d+)?(e\d+)?\s*({pattern})\s*$"}
    if annotation is Arguments:
        return {"type": "object"}
    names = {bool: "boolean", int: "integer", float: "number", str: "string", NoneType: "null"}
    schema: dict[str, Any] = {"type": names[annotation]}
    for bound in bounds:
        schema.update(_make_bound_schema(bound))
    return schema


def _list_base_choices(choice_registry: Registry, group: str) -> list[Choice]:
    return [choice for choice in choice_registry.get_choices(group).values() if choice.name == choice.base]


def _make_choice_schema(choice: Choice) -> dict[str, Any]:
    """Return the object schema of one choice.

    If an option is itself called `name`, the key may hold any text.
    """
    fields = choice.schema.fields
    schema = {"title": choice.name, "description": choice.doc, **_make_object_schema(fields)}
    if "name" not in fields:
        schema["properties"] = {"name": {"const": choice.name}, **schema["properties"]}
        schema["required"] = ["name", *schema["required"]]
    return schema


def _make_object_schema(fields: dict[str, FieldSchema]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: _make_field_schema(option) for name, option in fields.items()},
        "required": list(fields),
        "additionalProperties": False,
    }


def _make_field_schema(option: FieldSchema) -> dict[str, Any]:
    default = {} if option.default is REQUIRED else {"default": to_plain(option.default)}
    return {"description": option.doc, **make_type_schema(option.type), **default}


def _make_tuple_schema(item_types: tuple[Any, ...]) -> dict[str, Any]:
    if len(item_types) == 2 and item_types[1] is Ellipsis:
        return {"type": "array", "items": make_type_schema(item_types[0])}
    return {
        "type": "array",
        "prefixItems": [make_type_schema(item_type) for item_type in item_types],
        "minItems": len(item_types),
        "maxItems": len(item_types),
    }


def _make_bound_schema(bound: Any) -> dict[str, Any]:
    """Return the bounds of a number's Range, or the length and rule of a Text."""
    if isinstance(bound, Text):
        return {"maxLength": bound.at_most, "description": str(bound)}
    if not isinstance(bound, Range):
        return {}
    limits = {
        "exclusiveMinimum": bound.above,
        "minimum": bound.at_least,
        "exclusiveMaximum": bound.below,
        "maximum": bound.at_most,
    }
    return {name: limit for name, limit in limits.items() if abs(limit) != float("inf")}
