"""Write docs/reference.md from the tables that `dnntrain ls` reads.

It lists every command, option, key, group and choice.

python scripts/make_reference.py           writes it
python scripts/make_reference.py --check   exit code 1 if it is not current
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dnntrain.cli.choice_listing import describe_choice  # noqa: E402
from dnntrain.cli.command_table import COMMAND_SPELLINGS, COMMANDS, COMMON_OPTIONS, CONFIG_DIR, JSON  # noqa: E402
from dnntrain.cli.options import Option  # noqa: E402
from dnntrain.config.convert import describe_type, to_plain  # noqa: E402
from dnntrain.config.groups import GROUPS, LISTS, VISIBLE  # noqa: E402
from dnntrain.config.key_table import get_root_fields, get_section_fields  # noqa: E402
from dnntrain.config.registry import Choice, Registry, get_builtin_source  # noqa: E402
from dnntrain.config.run_config import SECTIONS  # noqa: E402
from dnntrain.config.schema import FieldSchema  # noqa: E402

TARGET = ROOT / "docs" / "reference.md"

#: Options that all choices of a group share are listed once, if the group has this many choices.
_SHARED_BY = 3

_HEAD = """\
# Reference

Written by `scripts/make_reference.py` from the configuration files and the typed fields; do not edit by hand.
The same from the command line: `dnntrain ls`, `dnntrain ls GROUP`, `dnntrain ls GROUP CHOICE`, each with `--json`.
How keys and choices are written: [configuration.md](configuration.md).
"""


def main(arguments: list[str]) -> int:
    """Write the page, or check it."""
    text = page()
    if arguments == ["--check"]:
        current = TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text
        if not current:
            print(f"{TARGET} is not current; run: python scripts/make_reference.py", file=sys.stderr)
        return int(not current)
    TARGET.write_text(text, encoding="utf-8")
    return 0


def page() -> str:
    """Return the whole page without installed plug-ins, so that it is the same everywhere."""
    known = Registry((get_builtin_source(),))
    lines = [_HEAD, "## Commands", "", *_commands(), "", "## Keys", ""]
    lines += ["At the root:", "", *_keys("", map(_describe_field, get_root_fields().values()))]
    for section, kind in SECTIONS.items():
        lines += ["", f"`{section}`: {kind.__doc__}", ""]
        lines += _keys(f"{section}.", map(_describe_field, get_section_fields(section).values()))
    for group in VISIBLE:
        lines += ["", f"## {group}", "", *_group(known, group)]
    return "\n".join(lines) + "\n"


def _commands() -> Iterator[str]:
    """Yield the table of commands, then the options of each; shared options are listed once."""
    yield from _table("command", "does")
    for name, command in COMMANDS.items():
        yield f"| {_code(' '.join(filter(None, ('dnntrain', name, command.operands))))} | {_cell(command.doc)} |"
    shared = (*COMMON_OPTIONS, JSON, CONFIG_DIR, *COMMAND_SPELLINGS)
    yield from ("", "Options that many commands have:", "", *_options(shared))
    for name, command in COMMANDS.items():
        if own := [option for option in command.options if option not in shared]:
            yield from ("", f"### dnntrain {name}", "", *_options(own))


def _options(options: Iterable[Option]) -> Iterator[str]:
    yield from _table("option", "default", "may be", "is")
    for option in options:
        operand = f"`{option.operand}`: " if option.operand else ""
        needs = f", with `--{option.needs[0]} {' or '.join(option.needs[1])}`" if option.needs else ""
        default = f"`{option.default_text}`" if option.default_text else ""
        yield f"| {_code(option.usage)} | {default} | {_cell(option.type_text)} | {operand}{_cell(option.doc)}{needs} |"


def _code(words: str) -> str:
    return f"`{_cell(words)}`"


def _group(known: Registry, group: str) -> Iterator[str]:
    choices = list(known.get_choices(group).values())
    how = {True: f"`+{group}=[NAME,…]`, a list", False: f"`{group}=NAME`, one"}[group in LISTS]
    yield f"{GROUPS[group].doc.capitalize()} ({how})."
    if not choices:
        yield from ("", "No choices yet.")
        return
    yield ""
    yield from _table("choice", "is")
    for choice in choices:
        yield f"| `{choice.name}` | {_cell(choice.doc)} |"
    found = [describe_choice(choice)[0] for choice in choices]
    shared = _shared([facts["options"] for facts in found if "options" in facts])
    if shared:
        yield from (
            "",
            f"Options of all choices of `{group}`; a choice below may list another default:",
            "",
        )
        yield from _keys(f"{group}.", shared)
    for choice, facts in zip(choices, found, strict=True):
        yield from _choice(choice, facts, shared)


def _choice(choice: Choice, facts: dict[str, Any], shared: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the options that only this choice has; for an overlay, its settings."""
    if choice.module_path is None:
        settings = [f"{key}={text(value)}" for key, value in facts["settings"].items()]
        chosen = [
            f"{key.removeprefix('override /')}={text(value)}"
            for entry in facts["defaults"]
            if isinstance(entry, dict)
            for key, value in entry.items()
        ]
        yield from (
            "",
            f"### {choice.group}={choice.name}",
            "",
            "Sets " + ", ".join(f"`{item}`" for item in chosen + settings) + ".",
        )
        return
    if choice.base != choice.name:
        changed = ", ".join(f"`{choice.key}.{name}={text(value)}`" for name, value in choice.chain[-1].values.items())
        yield from ("", f"### {choice.group}={choice.name}", "", f"The preset of `{choice.base}` with {changed}.")
        return
    own = [option for option in facts["options"] if option not in shared]
    if own:
        yield from ("", f"### {choice.group}={choice.name}", "")
        yield from _keys(f"{choice.key}.", own)


def _shared(tables: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the options that every table has with the same type and meaning.

    Each has its most common default.
    """
    if len(tables) < _SHARED_BY:
        return []
    shared = []
    for option in tables[0]:
        alike = [other for table in tables for other in table if _same(other, option)]
        if len(alike) == len(tables):
            shared.append(max(alike, key=alike.count))
    return shared


def _same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return all(left[key] == right[key] for key in ("name", "type", "doc"))


def _describe_field(field: FieldSchema) -> dict[str, Any]:
    return {"name": field.name, "default": to_plain(field.default), "type": describe_type(field.type), "doc": field.doc}


def _keys(prefix: str, options: Iterable[dict[str, Any]]) -> Iterator[str]:
    yield from _table("key", "default", "may be", "is")
    for option in options:
        default = text(option["default"])
        yield f"| `{prefix}{option['name']}` | `{default}` | {_cell(option['type'])} | {_cell(option['doc'])} |"


def _table(*names: str) -> tuple[str, str]:
    return f"| {' | '.join(names)} |", "|" + "---|" * len(names)


def text(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    if isinstance(value, list):
        return "[" + ",".join(map(text, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(words: str) -> str:
    return words.replace("|", r"\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
