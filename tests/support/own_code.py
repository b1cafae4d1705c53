"""Your own parts in one file, as the page docs/custom.md has them."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "custom.md"


def write_mine(folder: Path) -> Path:
    """Write the file of the page and return its path."""
    (source,) = re.findall(r"```python file=mine.py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    (folder / "mine.py").write_text(source)
    return folder / "mine.py"
