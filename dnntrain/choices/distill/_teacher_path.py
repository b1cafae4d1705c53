"""Check the path of a teacher. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import suggest_run


def check_teacher_path(source: str) -> Path:
    """Return the path of a run directory, export or model. Raises ConfigError if it does not exist."""
    path = Path(source).expanduser()
    if not path.exists():
        raise ConfigError(
            "there is no such run directory, export or model",
            f"{suggest_run(path, 'config.json')}; or name torchvision:NAME or timm:NAME. "
            "A resumed run needs its original teacher: restore it at this path, or link to it",
        )
    return path
