"""A transform that makes the reading of each image slow."""

from __future__ import annotations

from pathlib import Path


def make_waiting_words(folder: Path, seconds: float, count: Path | None = None) -> list[str]:
    """Return the words of a transform that waits; it adds a letter to the file `count` for each image."""
    file = folder / "waiting.py"
    note = "" if count is None else f"    with open({str(count)!r}, 'a') as file:\n        file.write('.')\n"
    file.write_text(
        f"import time\n\ndef wait(image, generator):\n    time.sleep({seconds})\n{note}    return image\n",
        encoding="utf-8",
    )
    return ["augment=[custom]", f"augment.custom.file={file}"]
