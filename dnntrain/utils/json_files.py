"""Read JSON that may be damaged or hostile, and write strict JSON atomically."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from dnntrain.utils.files import read_bytes, write_bytes

_MAX_JSON_DEPTH = 64


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (no NaN), indented, atomically. A text that is not UTF-8, such as a path, is escaped."""
    value = to_strict_json(value)
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
    write_bytes(path, data)


def format_json(value: Any, indent: int | None = None) -> str:
    """Return `value` as the text that a command prints: JSON that every program reads, so without NaN."""
    return json.dumps(to_strict_json(value), indent=indent, allow_nan=False)


def to_strict_json(value: Any) -> Any:
    """Return `value` as strict JSON.

    Non-finite numbers become strings ("nan", "inf", "-inf"), paths become text.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): to_strict_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_strict_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def parse_json(text: str | bytes, **options: Any) -> Any:
    """Return the value in JSON text, which may be damaged or hostile.

    Raises ValueError for all that can be wrong: the syntax, bytes that are not UTF-8, numbers of
    thousands of digits, and nesting that is too deep.
    """
    try:
        value = json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    """Raise ValueError if a JSON value is nested deeper than code that walks through it can go."""
    level = [value]
    for _ in range(_MAX_JSON_DEPTH):
        level = [
            item
            for container in level
            if isinstance(container, (dict, list))
            for item in (container.values() if isinstance(container, dict) else container)
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    It is empty if the file is missing or damaged.
    """
    try:
        value = parse_json(read_bytes(path))
    except (OSError, ValueError):
        return {}
    return dict(value) if isinstance(value, dict) else {}
