"""List the names of the formats, one file each in `formats/`, without importing torch."""

from __future__ import annotations

from pathlib import Path

FORMAT_NAMES = tuple(
    sorted(file.stem for file in Path(__file__).with_name("formats").glob("*.py") if not file.stem.startswith("_"))
)
