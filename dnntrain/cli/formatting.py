"""Format lines to the width of the terminal, for help and for the output of commands.

Imports neither hydra nor torch.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence

#: Columns that a text beside a name needs; with fewer it moves below the name.
_MIN_TEXT_COLUMNS = 24


def terminal_width() -> int:
    """Return the columns to write in: the terminal's (default 80), from 40 to 120."""
    return max(40, min(shutil.get_terminal_size().columns, 120))


def wrap_text(head: str, text: str, indent: int | None = None) -> list[str]:
    """Return `head` and `text` in lines no wider than the terminal.

    Lines after the first are indented by `indent`, or aligned behind the head.
    """
    if indent is None:
        indent = len(head) if text else 4
    if indent < len(head) and len(head) + len(text.partition(" ")[0]) > terminal_width():
        return [*textwrap.wrap(head, terminal_width()), *wrap_text(" " * indent, text, indent)]
    return textwrap.wrap(
        text,
        terminal_width(),
        initial_indent=head,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [head.rstrip()]


def wrap_command(line: str) -> list[str]:
    """Return a command in lines that a shell reads as one: each but the last ends with a backslash."""
    *first_lines, last = textwrap.wrap(
        line,
        terminal_width() - 2,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [*(f"{part} \\" for part in first_lines), last]


def format_columns(rows: Sequence[tuple[str, str]], commands: bool = False) -> list[str]:
    """Return (name, text) rows in two columns.

    `commands`: the names are commands. A text without room beside its command moves below it.
    """
    width = max(len(name) for name, _ in rows)
    longest = max(len(text) for _, text in rows)
    if commands and terminal_width() < width + 4 + min(longest, _MIN_TEXT_COLUMNS):
        return [line for name, text in rows for line in (*wrap_command(name), *wrap_text("      ", text))]
    return [line for name, text in rows for line in wrap_text(f"  {name:<{width}}  ", text)]


def format_rows(rows: Sequence[tuple[str, str]]) -> str:
    """Return (label, text) rows as aligned lines, wrapped to the width of the terminal."""
    lines = []
    for label, text in rows:
        text_lines = textwrap.wrap(text, min(terminal_width(), 100) - 15) or [""]
        lines += [f"{label if number == 0 else '':<14} {line}" for number, line in enumerate(text_lines)]
    return "\n".join(lines)
