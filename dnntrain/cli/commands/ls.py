"""`dnntrain ls [GROUP [CHOICE]]`: groups, choices, knobs.

From the YAML files and the modules' source; no hydra, no torch.
"""

from __future__ import annotations

import json
from typing import Any

from dnntrain.cli.formatting import wrapped
from dnntrain.cli.parser import Arguments
from dnntrain.config.convert import describe, plain
from dnntrain.config.groups import GROUPS
from dnntrain.config.registry import Choice, Registry, registry
from dnntrain.config.schema import REQUIRED
from dnntrain.config.yaml_io import leaves, shown
from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import did_you_mean


def run(arguments: Arguments) -> int:
    """Prints a table, or JSON."""
    words = arguments.positional
    if len(words) > 2:
        raise ConfigError(f"ls takes a group and a choice, {len(words)} words were given", "as in: dnntrain ls reg ema")
    if words and words[0] not in GROUPS:
        raise ConfigError(f"there is no group {words[0]!r}; {did_you_mean(words[0], list(GROUPS))}")
    known = registry(arguments.config_dir)
    found: Any
    if not words:
        found, lines = all_groups(known)
    elif len(words) == 1:
        found, lines = one_group(known, words[0])
    else:
        found, lines = one_choice(known.choice(words[0], words[1]))
    print(json.dumps(found, indent=1) if arguments.json else "\n".join(lines))
    return 0


def all_groups(known: Registry) -> tuple[list[dict[str, Any]], list[str]]:
    """Every group with the names of its choices."""
    found: list[dict[str, Any]] = [
        {"group": name, "doc": group.doc, "list": not group.single, "choices": known.names(name)}
        for name, group in GROUPS.items()
    ]
    rows = [(str(row["group"]), ", ".join(row["choices"]) or "(none yet)", str(row["doc"])) for row in found]
    lines = [line for name, choices, doc in rows for line in wrapped(f"{name:<10} ", f"{doc}: {choices}")]
    return found, [*lines, "", "dnntrain ls GROUP describes the choices, dnntrain ls GROUP CHOICE the knobs"]


def one_group(known: Registry, group: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Every choice of `group` with a line about it."""
    choices = known.choices(group).values()
    found = [
        {"choice": choice.name, "base": choice.base, "doc": choice.doc, "file": shown(choice.yaml)}
        for choice in choices
    ]
    width = max((len(choice.name) for choice in choices), default=0)
    lines = [line for choice in choices for line in wrapped(f"{choice.name:<{width}}  ", choice.doc)]
    how = f"{group}=NAME" if GROUPS[group].single else f"+{group}=[NAME,…]"
    return found, [*wrapped(f"{group}: ", f"{GROUPS[group].doc} ({how})"), "", *(lines or ["(no choices yet)"])]


def one_choice(choice: Choice) -> tuple[dict[str, Any], list[str]]:
    """The knobs of a choice: default, what it may be, what it is for. An overlay has settings instead."""
    found: dict[str, Any] = {
        "group": choice.group,
        "choice": choice.name,
        "doc": choice.doc,
        "file": shown(choice.yaml),
    }
    head = [*wrapped(f"{choice.group}={choice.name}: ", choice.doc), f"({shown(choice.yaml)})", ""]
    if choice.module_path is None:
        file = choice.chain[-1]
        settings = {".".join(keys): value for keys, value in file.leaves()}
        found.update(defaults=list(file.defaults), settings=settings)
        chosen = [
            f"{key.removeprefix('override /')}={_text(value)}"
            for entry in file.defaults
            for key, value in _pairs(entry)
        ]
        return found, [*head, *chosen, *(f"{key}={_text(value)}" for key, value in settings.items())]
    knobs = _knobs(choice)
    found["knobs"] = knobs
    lines: list[str] = []
    for knob in knobs:
        lines += wrapped(f"{choice.key}.{knob['name']}={_text(knob['default'])}", "")
        lines += wrapped("    ", "; ".join(part for part in (knob["doc"], knob["type"]) if part))
    return found, [*head, *(lines or ["(nothing to set)"])]


def _knobs(choice: Choice) -> list[dict[str, Any]]:
    values = dict(leaves(choice.values()))
    return [
        {
            "name": name,
            "default": values.get((name,), None if knob.default is REQUIRED else plain(knob.default)),
            "type": describe(knob.type),
            "doc": knob.doc,
        }
        for name, knob in choice.schema.fields.items()
    ]


def _pairs(entry: Any) -> list[tuple[str, Any]]:
    return list(entry.items()) if isinstance(entry, dict) else []


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(_text(item) for item in value) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)
