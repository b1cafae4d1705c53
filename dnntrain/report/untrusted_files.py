"""Read files of a run directory that may be hostile: sizes capped, types checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from dnntrain.report.integrity import check_seal
from dnntrain.utils.files import open_file
from dnntrain.utils.sealed_json import SEAL

#: The largest JSON file that is read.
_MAX_JSON_BYTES = 64 * 2**20


def parse_number(value: Any) -> float:
    """Return `value` as a float; NaN if it is not a number.

    Of texts, only "nan", "inf" and "-inf" are numbers.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    if isinstance(value, str) and value not in ("inf", "-inf"):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def try_open(path: Path) -> IO[bytes] | None:
    """Return an open regular file, or None."""
    try:
        return open_file(path)
    except (OSError, ValueError):
        return None


def read_text(path: Path, limit_bytes: int) -> str | None:
    """Return the file as text, with bytes replaced that are not UTF-8.

    None if it is missing, not a file, or too large.
    """
    file = try_open(path)
    if file is None:
        return None
    with file:
        try:
            data = file.read(limit_bytes + 1)
        except OSError:
            return None
    return None if len(data) > limit_bytes else data.decode("utf-8", errors="replace")


def read_data(path: Path, notes: list[str]) -> Mapping[str, Any]:
    """Return the object in a JSON file; empty, with a note if it is damaged or too large."""
    text = read_text(path, _MAX_JSON_BYTES)
    value = None if text is None else parse_json(text)
    if isinstance(value, dict):
        check_seal(path, value)
        return {key: item for key, item in value.items() if key != SEAL}
    if path.exists():
        notes.append(f"{path.name} is damaged or too large, and was skipped")
    return {}


def parse_json(text: str) -> Any:
    """Parse JSON; return None if it is invalid.

    A hostile text may also nest too deep or hold numbers that are too long.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
