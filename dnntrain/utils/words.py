"""TODO"""

from __future__ import annotations

from collections.abc import Sequence


def join_words(words: Sequence[str]) -> str:
    """One word a line. Words of plain characters stand as they are, for `dnntrain $(cat overrides.txt)`; others are quoted for xargs."""
    import re
    import shlex

    plain = re.compile(r"[^\s'\"\\]+")
    return "".join(f"{word if plain.fullmatch(word) else shlex.quote(word)}\n" for word in words)


def split_words(text: str) -> list[str]:
    """The words that `join_words` wrote."""
    import shlex

    return shlex.split(text)
