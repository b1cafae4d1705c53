"""Check that a file can be written before the work whose result it gets."""

from __future__ import annotations

import tempfile
from pathlib import Path

from dnntrain.errors import ConfigError


def check_output_file(option: str, path: Path, example: str) -> None:
    """Raise ConfigError if the file that `--option` names cannot be written.

    `example` is the name of such a file, for the message.
    """
    if not path.parent.is_dir():
        raise ConfigError(
            f"--{option} {path}: there is no folder {path.parent}", f"create it, or use --{option} {path.name}"
        )
    if path.is_dir():
        raise ConfigError(f"--{option} {path} is a folder", f"name a file, as in --{option} {path / example}")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ConfigError(
            f"--{option} {path}: the folder {path.parent} cannot be written ({error.strerror})", "name a file elsewhere"
        ) from None
