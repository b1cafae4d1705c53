"""Saved command lines: words to text and back, with the user's --config-dir."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

#: The only option that is part of a configuration.
_CONFIG_DIR = "--config-dir="


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


def add_config_dir(config_dir: str | Path | None, overrides: Sequence[str]) -> tuple[str, ...]:
    """Return the words that compose the same configuration again: the overrides, after the user's own folder of choices."""
    return (*([] if config_dir is None else [f"{_CONFIG_DIR}{Path(config_dir).absolute()}"]), *overrides)


def split_config_dir(words: Sequence[str]) -> tuple[Path | None, tuple[str, ...]]:
    """Return the config_dir and the overrides of the words that `add_config_dir` made."""
    folders = [word.removeprefix(_CONFIG_DIR) for word in words if word.startswith(_CONFIG_DIR)]
    overrides = tuple(word for word in words if not word.startswith(_CONFIG_DIR))
    return Path(folders[-1]) if folders else None, overrides
