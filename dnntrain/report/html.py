"""HTML in small pieces. Every text that comes from a file passes through `escaped`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


def escaped(text: object, most: int = 300) -> str:
    """`text` for use in HTML, attributes included, cut to `most` letters.

    Special letters are escaped, control letters and lone surrogates replaced.
    """
    value = str(text)
    if len(value) > most:
        value = f"{value[: most - 1]}…"
    visible = "".join(letter if _visible(letter) else "\N{REPLACEMENT CHARACTER}" for letter in value)
    return html.escape(visible, quote=True)


def isolated(text: object, most: int = 120) -> str:
    """A name from a file, kept from changing the direction of the text around it."""
    return f"<bdi>{escaped(text, most)}</bdi>"


def section(title: str, body: str, name: str = "") -> str:
    """A part of the page with a heading; nothing where `body` is empty."""
    kind = f' class="{name}"' if name else ""
    return f"<section{kind}><h2>{escaped(title)}</h2>{body}</section>" if body else ""


def details(title: str, body: str) -> str:
    """A part that is folded until it is asked for; nothing where `body` is empty."""
    return f"<details><summary>{escaped(title)}</summary>{body}</details>" if body else ""


def pairs(rows: Iterable[tuple[str, str]], caption: str) -> str:
    """A table of names and values; `rows` hold plain text."""
    body = "".join(
        f'<tr><th scope="row">{isolated(name)}</th><td>{isolated(value, 240)}</td></tr>' for name, value in rows
    )
    return (
        f'<div class="wide"><table class="pairs"><caption>{escaped(caption)}</caption>{body}</table></div>'
        if body
        else ""
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table whose cells are HTML already; the first column names the row."""
    if not rows:
        return ""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in rows
    )
    return (
        f'<div class="wide"><table class="data"><caption>{escaped(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _visible(letter: str) -> bool:
    return letter in "\t\n" or (letter >= " " and not "\x7f" <= letter <= "\x9f" and not "\ud800" <= letter <= "\udfff")
