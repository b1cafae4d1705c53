"""Compute the digest of the settings that determine a run's results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

#: Root keys for the place and the name of a run; they do not change the computation.
_DIGEST_EXCLUDED_KEYS = ("choices", "name", "run_dir", "resume")


def compute_digest(container: Mapping[str, Any]) -> str:
    """Return the sha256 digest of the settings that determine a run's results.

    The digest covers the canonical JSON of the container without name, run_dir, resume and choices.
    """
    digest_values = {key: value for key, value in container.items() if key not in _DIGEST_EXCLUDED_KEYS}
    text = json.dumps(digest_values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
