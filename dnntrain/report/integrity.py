"""Compare the files of a run with their checksums before a report shows their values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnntrain.errors import CheckpointError
from dnntrain.utils.files import read_text
from dnntrain.utils.sealed_json import METRICS_SEAL, SEAL, check_rows, is_sealed, read_intact_json

_HINT = "restore it from a copy; if you remove it, the report leaves it out"


def check_seal(path: Path, value: Mapping[str, Any]) -> None:
    """Raise CheckpointError if the object read from `path` has a checksum that its values do not match."""
    try:
        is_intact = SEAL not in value or is_sealed(value)
    except RecursionError:
        is_intact = False
    if not is_intact:
        raise CheckpointError(f"{path} is damaged or was altered: its values do not match its SHA-256", _HINT)


def check_metrics(run: Path, result: Mapping[str, Any], max_bytes: int) -> list[str]:
    """Check metrics.jsonl against the checksum of result.json or, before the run ends, of its last checkpoint.

    A file of more than `max_bytes` is not checked. Returns notes for the report. Raises
    CheckpointError if the rows of an ended run do not match.
    """
    file = run / "metrics.jsonl"
    if not file.is_file() or file.is_symlink() or file.stat().st_size > max_bytes:
        return []
    if result:
        check_rows(file, result.get(METRICS_SEAL), hint=_HINT)
        return []
    size_bytes, digest = _read_seal_of_checkpoint(run / "checkpoints")
    try:
        check_rows(file, digest, size_bytes)
    except CheckpointError as error:
        # A note only, because a run that is training may remove rows at this moment.
        return [error.message]
    return []


def _read_seal_of_checkpoint(folder: Path) -> tuple[int, Any]:
    """Return the size and the checksum of the rows at the checkpoint of LAST; (0, None) if they are unknown."""
    try:
        name = read_text(folder / "LAST").strip()
    except (OSError, ValueError):
        return 0, None
    if not re.fullmatch(r"step-[0-9]{1,18}", name):
        return 0, None
    values = read_intact_json(folder / name / "manifest.json").get("values")
    saved = values.get("metrics") if isinstance(values, dict) else None
    if not isinstance(saved, dict) or not isinstance(saved.get("bytes"), int):
        return 0, None
    return max(0, saved["bytes"]), saved.get("sha256")
