"""Describe groups, choices and their options, without importing hydra or torch.

The YAML files and the source of the modules describe them.
"""

from __future__ import annotations

from typing import Any

from dnntrain.cli.formatting import wrap_text
from dnntrain.config.convert import describe_type, to_plain
from dnntrain.config.groups import GROUPS
from dnntrain.config.registry import Choice, Registry
from dnntrain.config.schema import REQUIRED
from dnntrain.config.yaml_io import format_path, iterate_leaves


def list_groups(choice_registry: Registry) -> tuple[list[dict[str, Any]], list[str]]:
    """Return every group with the names of its choices."""
    group_rows: list[dict[str, Any]] = [
        {"group": name, "doc": group.doc, "list": not group.single, "choices": choice_registry.list_names(name)}
        for name, group in GROUPS.items()
        if not group.hidden
    ]
    rows = [(str(row["group"]), ", ".join(row["choices"]) or "(none yet)", str(row["doc"])) for row in group_rows]
    lines = [line for name, choices, doc in rows for line in wrap_text(f"{name:<10} ", f"{doc}: {choices}")]
    return group_rows, [*lines, "", "dnntrain ls GROUP describes the choices, dnntrain ls GROUP CHOICE the options"]


def describe_group(choice_registry: Registry, group: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return every choice of `group` with a line about it."""
    choices = choice_registry.get_choices(group).values()
    choice_rows = [
        {"choice": choice.name, "base": choice.base, "doc": choice.doc, "file": format_path(choice.yaml)}
        for choice in choices
    ]
    width = max((len(choice.name) for choice in choices), default=0)
    lines = [line for choice in choices for line in wrap_text(f"{choice.name:<{width}}  ", choice.doc)]
    syntax = f"{group}=NAME" if GROUPS[group].single else f"+{group}=[NAME,…]"
    return choice_rows, [
        *wrap_text(f"{group}: ", f"{GROUPS[group].doc} ({syntax})"),
        "",
        *(lines or ["(no choices yet)"]),
    ]


def describe_choice(choice: Choice) -> tuple[dict[str, Any], list[str]]:
    """Return the options of a choice: default, allowed values, purpose.

    An overlay has settings instead.
    """
    description: dict[str, Any] = {
        "group": choice.group,
        "choice": choice.name,
        "doc": choice.doc,
        "file": format_path(choice.yaml),
    }
    head = [*wrap_text(f"{choice.group}={choice.name}: ", choice.doc), f"({format_path(choice.yaml)})", ""]
    if choice.module_path is None:
        file = choice.chain[-1]
        settings = {".".join(keys): value for keys, value in file.iterate_leaves()}
        description.update(defaults=list(file.defaults), settings=settings)
        default_lines = [
            f"{key.removeprefix('override /')}={_format_value(value)}"
            for entry in file.defaults
            for key, value in _list_pairs(entry)
        ]
        return description, [
            *head,
            *default_lines,
            *(f"{key}={_format_value(value)}" for key, value in settings.items()),
        ]
    options = _describe_options(choice)
    description["options"] = options
    lines: list[str] = []
    for option in options:
        lines += wrap_text(f"{choice.key}.{option['name']}={_format_value(option['default'])}", "")
        lines += wrap_text("    ", "; ".join(part for part in (option["doc"], option["type"]) if part))
    return description, [*head, *(lines or ["(nothing to set)"])]


def _describe_options(choice: Choice) -> list[dict[str, Any]]:
    values = dict(iterate_leaves(choice.read_values()))
    return [
        {
            "name": name,
            "default": values.get((name,), None if option.default is REQUIRED else to_plain(option.default)),
            "type": describe_type(option.type),
            "doc": option.doc,
        }
        for name, option in choice.schema.fields.items()
    ]


def _list_pairs(entry: Any) -> list[tuple[str, Any]]:
    return list(entry.items()) if isinstance(entry, dict) else []


def _format_value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(_format_value(item) for item in value) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)
