"""Write HTML in small pieces. Every text from a file passes through `escape_text`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


def escape_text(text: object, max_length: int = 300) -> str:
    """Return `text` for use in HTML, attributes included, cut to `max_length` letters.

    Special letters are escaped, control letters and lone surrogates replaced.
    """
    value = str(text)
    if len(value) > max_length:
        value = f"{value[: max_length - 1]}…"
    printable = "".join(letter if _is_visible(letter) else "\N{REPLACEMENT CHARACTER}" for letter in value)
    return html.escape(printable, quote=True)


def isolate_text(text: object, max_length: int = 120) -> str:
    """Return a name from a file that cannot change the direction of the text around it."""
    return f"<bdi>{escape_text(text, max_length)}</bdi>"


def render_section(title: str, body: str, name: str = "") -> str:
    """Return a section of the page with a heading; empty if `body` is empty."""
    kind = f' class="{name}"' if name else ""
    return f"<section{kind}><h2>{escape_text(title)}</h2>{body}</section>" if body else ""


def render_details(title: str, body: str) -> str:
    """Return a folded section; empty if `body` is empty."""
    return f"<details><summary>{escape_text(title)}</summary>{body}</details>" if body else ""


def render_pairs(rows: Iterable[tuple[str, str]], caption: str) -> str:
    """Return a table of names and values; `rows` hold plain text."""
    body = "".join(
        f'<tr><th scope="row">{isolate_text(name)}</th><td>{isolate_text(value, 240)}</td></tr>' for name, value in rows
    )
    return (
        f'<div class="wide"><table class="pairs"><caption>{escape_text(caption)}</caption>{body}</table></div>'
        if body
        else ""
    )


def render_table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Return a table whose cells are HTML already; the first column names the row."""
    if not rows:
        return ""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in other_cells)}</tr>'
        for first, *other_cells in rows
    )
    return (
        f'<div class="wide"><table class="data"><caption>{escape_text(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _is_visible(letter: str) -> bool:
    return letter in "\t\n" or (letter >= " " and not "\x7f" <= letter <= "\x9f" and not "\ud800" <= letter <= "\udfff")
