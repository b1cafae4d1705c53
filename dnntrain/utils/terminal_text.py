"""Make text from files, names and other programs safe to show on a terminal.

Such text may hold escape sequences, which move the cursor, set the title or the clipboard, and
letters that show a line in another order or not at all. `clean_text` shows each of them by its
code. It imports nothing from the project, and no torch.
"""

from __future__ import annotations

import re

#: Letters that are printable for Python but invisible: combining grapheme joiner, Hangul fillers,
#: Khmer inherent vowels, Mongolian and other variation selectors. Unicode calls them
#: default-ignorable, as it calls the format letters, which Python does not print.
_INVISIBLE = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef"
_INVISIBLE_LETTER = re.compile(f"[{_INVISIBLE}]")


def clean_text(text: str) -> str:
    """Return `text` with every control, format and invisible letter as its escape, such as `\\x1b`.

    These are the letters of the Unicode categories Cc, Cf, Cs, Co, Cn, Zl, Zp and Zs, except the
    space, and those that are default-ignorable. Line feeds and tabs stay. A carriage return before
    a line feed is removed.
    """
    if is_clean(text):
        return text
    text = text.replace("\r\n", "\n")
    return "".join(letter if letter in "\n\t" or is_clean(letter) else escape_letter(letter) for letter in text)


def clean_line(text: str) -> str:
    """Return `text` cleaned and on one line: line feeds and tabs are escapes, too."""
    return clean_text(text).replace("\n", "\\n").replace("\t", "\\t")


def is_clean(text: str) -> bool:
    """Return whether each letter is visible, and none acts on the terminal."""
    return text.isprintable() and (text.isascii() or _INVISIBLE_LETTER.search(text) is None)


def escape_letter(letter: str) -> str:
    """Return a letter as Python writes it in a string: `\\x1b`, `\\u202e`."""
    return letter.encode("unicode_escape").decode("ascii")
