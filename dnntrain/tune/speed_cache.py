"""Keep the results of `dnntrain tune speed`, by hardware, ranks, versions, configuration and data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnntrain.errors import ConfigError
from dnntrain.run.tuned_settings import TunedSettings, read_tuned_settings
from dnntrain.utils.sealed_json import compute_json_digest


def find_cached_settings(key: Mapping[str, Any], question: Mapping[str, Any]) -> TunedSettings | None:
    """Return the result for a key and the options of the search, or None."""
    path = _get_path(key, question)
    if not path.is_file():
        return None
    try:
        tuned = read_tuned_settings(path)
    except ConfigError:
        return None  # a damaged file is measured again
    return tuned


def cache_settings(tuned: TunedSettings, key: Mapping[str, Any], question: Mapping[str, Any]) -> None:
    """Keep the result for a key and the options of the search. A folder that cannot be written keeps nothing."""
    path = _get_path(key, question)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tuned.write(path)
    except OSError:
        return


def _get_path(key: Mapping[str, Any], question: Mapping[str, Any]) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return root / "dnntrain" / "tuned" / f"{compute_json_digest([key, question])[:16]}.yaml"
