"""Read and write `config.yaml` of a run directory: the one place that a saved run is composed from.

The file holds the resolved configuration and, in its last line, the SHA-256 of the values. Comments
and layout of the file may change; the values may not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnntrain.config.decode import decode_to_plain
from dnntrain.config.yaml_io import dump_yaml, format_path, parse_yaml
from dnntrain.errors import CheckpointError, ConfigError, FileKindError
from dnntrain.utils.files import read_bytes, write_text
from dnntrain.utils.sealed_json import compute_json_digest

CONFIG_NAME = "config.yaml"

_MAX_BYTES = 1 << 20
_CHECKSUM = re.compile(r"^# sha256: ([0-9a-f]{64})$", re.M)
_RESTORE_HINT = "restore it from a copy, or train the run again"


def write_saved_config(folder: Path, container: Mapping[str, Any]) -> None:
    """Write the resolved configuration `container` to config.yaml in `folder`, with its checksum."""
    text = dump_yaml(dict(container))
    values, _ = parse_yaml(text, CONFIG_NAME)
    write_text(folder / CONFIG_NAME, f"{text}# sha256: {compute_json_digest(values)}\n")


def read_saved_config(folder: Path) -> dict[str, Any]:
    """Return the saved configuration of the run directory `folder`, checked as `decode_config` does.

    Its texts are data: nothing in them is resolved. Raises CheckpointError if the file is missing
    or damaged, and ConfigError if a value in it is invalid in this version of dnntrain.
    """
    path = folder / CONFIG_NAME
    try:
        data = read_bytes(path)
        text = data.decode("utf-8")
    except FileKindError:
        raise
    except OSError as error:
        raise CheckpointError(f"{format_path(path)} cannot be read: {error.strerror}", _RESTORE_HINT) from None
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{format_path(path)} is damaged: byte {error.start} is not UTF-8", _RESTORE_HINT
        ) from None
    if len(data) > _MAX_BYTES:
        raise CheckpointError(f"{format_path(path)} has {len(data)} bytes; it must have at most {_MAX_BYTES}")
    try:
        values, _ = parse_yaml(text, format_path(path))
    except ConfigError as error:
        raise CheckpointError(f"the saved configuration cannot be used: {error.message}", error.hint) from None
    checksums = _CHECKSUM.findall(text)
    if not checksums:
        raise CheckpointError(
            f"{format_path(path)} is damaged or was altered: its last line, `# sha256: …`, is missing", _RESTORE_HINT
        )
    if checksums[-1] != compute_json_digest(values):
        raise CheckpointError(
            f"{format_path(path)} is damaged or was altered: its values do not match its SHA-256", _RESTORE_HINT
        )
    try:
        return decode_to_plain(values)
    except ConfigError as error:
        raise ConfigError(f"{format_path(path)}: {error.message}", error.hint, error.mistakes) from None
