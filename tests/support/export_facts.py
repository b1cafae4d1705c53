"""Facts about the exports of the short run, from their manifests and from the layers of its network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Multiply-adds of the default network on one image of 8x8, from the sizes of its layers: two 3x3 convolutions
#: without padding (to 6x6 and 4x4 pixels), then 256 → 128 → 10.
CONVOLUTIONS = 36 * 32 * 9 * 1 + 16 * 64 * 9 * 32
LINEAR = 256 * 128 + 128 * 10


def read_details(folder: Path) -> dict[str, Any]:
    """The measured values in the manifest of an export."""
    details: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["details"]
    return details
