"""`dnntrain schema`: JSON Schema (draft 2020-12) of a saved configuration, for editors. No hydra, no torch."""

from __future__ import annotations

import json
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from dnntrain.cli.parser import Arguments
from dnntrain.config.convert import plain
from dnntrain.config.fields import Duration, Range, Text, Units
from dnntrain.config.groups import GROUPS, LISTS, SINGLE
from dnntrain.config.key_table import scalar_fields, section_fields
from dnntrain.config.registry import Choice, Registry, registry
from dnntrain.config.run_config import SECTIONS
from dnntrain.config.schema import REQUIRED, FieldSchema

_UNITS = {"step": "steps?", "ep": "(ep|epochs?)", "s": "(s|sec)", "%": "%"}


def run(arguments: Arguments) -> int:
    """Prints the schema of the choices that are installed."""
    print(json.dumps(json_schema(registry(arguments.config_dir)), indent=1))
    return 0


def json_schema(known: Registry) -> dict[str, Any]:
    """The schema of config.yaml; each group is one of its choices, told apart by `name`."""
    properties = {name: _field(knob) for name, knob in scalar_fields().items()}
    for section, kind in SECTIONS.items():
        properties[section] = {"description": kind.__doc__, **_object(section_fields(section))}
    for group in SINGLE:
        bases = _bases(known, group)
        properties[group] = {"description": GROUPS[group].doc, "oneOf": [_choice(base) for base in bases]}
    for group in LISTS:
        members = {base.name: _choice(base) for base in _bases(known, group)}
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


def json_type(annotation: Any) -> dict[str, Any]:
    """The schema of values that `convert` accepts for `annotation`, in their plain form."""
    bounds: tuple[Any, ...] = ()
    if get_origin(annotation) is Annotated:
        annotation, *rest = get_args(annotation)
        bounds = tuple(rest)
    if get_origin(annotation) in (Union, UnionType):
        return {"anyOf": [json_type(part) for part in get_args(annotation)]}
    if get_origin(annotation) is Literal:
        return {"enum": [plain(option) for option in get_args(annotation)]}
    if get_origin(annotation) is tuple:
        return _tuple(get_args(annotation))
    if annotation is Duration:
        units = next((bound.names for bound in bounds if isinstance(bound, Units)), tuple(_UNITS))
        pattern = "|".join(_UNITS[unit] for unit in units)
        return {"type": "string", "pattern": rf"^\s*\d+(\.\d+)?(e\d+)?\s*({pattern})\s*$"}
    names = {bool: "boolean", int: "integer", float: "number", str: "string", NoneType: "null"}
    schema: dict[str, Any] = {"type": names[annotation]}
    for bound in bounds:
        schema.update(_bound(bound))
    return schema


def _bases(known: Registry, group: str) -> list[Choice]:
    return [choice for choice in known.choices(group).values() if choice.name == choice.base]


def _choice(choice: Choice) -> dict[str, Any]:
    """The object of one choice. Where a knob is itself called `name`, any text may stand there."""
    fields = choice.schema.fields
    schema = {"title": choice.name, "description": choice.doc, **_object(fields)}
    if "name" not in fields:
        schema["properties"] = {"name": {"const": choice.name}, **schema["properties"]}
        schema["required"] = ["name", *schema["required"]]
    return schema


def _object(fields: dict[str, FieldSchema]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: _field(knob) for name, knob in fields.items()},
        "required": list(fields),
        "additionalProperties": False,
    }


def _field(knob: FieldSchema) -> dict[str, Any]:
    default = {} if knob.default is REQUIRED else {"default": plain(knob.default)}
    return {"description": knob.doc, **json_type(knob.type), **default}


def _tuple(parts: tuple[Any, ...]) -> dict[str, Any]:
    if len(parts) == 2 and parts[1] is Ellipsis:
        return {"type": "array", "items": json_type(parts[0])}
    return {
        "type": "array",
        "prefixItems": [json_type(part) for part in parts],
        "minItems": len(parts),
        "maxItems": len(parts),
    }


def _bound(bound: Any) -> dict[str, Any]:
    """The bounds that a number's Range or a text's rule sets."""
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
