"""Save command lines as text and read them back, with the user's --config-dir."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dnntrain.errors import CheckpointError
from dnntrain.utils.files import read_text

#: The only option that is part of a configuration.
_CONFIG_DIR = "--config-dir="


def get_key(word: str) -> str:
    """Return the key that a word of a command line sets: `optim.lr` of `+optim.lr=0.1`."""
    return word.lstrip("+~").partition("=")[0].strip()


def join_words(words: Sequence[str]) -> str:
    """Join words as one per line, quoted for xargs if they have special characters.

    Plain words are not quoted, for `dnntrain $(cat overrides.txt)`.
    """
    import re
    import shlex

    plain = re.compile(r"[^\s'\"\\]+")
    return "".join(f"{word if plain.fullmatch(word) else shlex.quote(word)}\n" for word in words)


def split_words(text: str) -> list[str]:
    """Split the text of `join_words` into words."""
    import shlex

    return shlex.split(text)


def read_words(path: Path) -> list[str]:
    """Read the words in the file `path`. Raises CheckpointError if it is missing or damaged."""
    try:
        return split_words(read_text(path))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}", "restore it from a copy") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}", "restore it from a copy") from None


def add_config_dir(config_dir: str | Path | None, overrides: Sequence[str]) -> tuple[str, ...]:
    """Return words that compose the same configuration.

    The user's folder of choices comes first, then the overrides.
    """
    return (*([] if config_dir is None else [f"{_CONFIG_DIR}{Path(config_dir).absolute()}"]), *overrides)
