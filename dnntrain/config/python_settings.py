"""Write settings given from Python as words of the command line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnntrain.errors import ConfigError


def format_settings(settings: Mapping[str, Any]) -> list[str]:
    """Return overrides as words: `{"optim": {"lr": 0.1}, "run_dir": None}` → `optim.lr=0.1`, `run_dir=null`.

    A class or function as `model` or `data` becomes `model=custom` with its file and name. Raises
    ConfigError for other objects, which a run directory could not describe.
    """
    words: list[str] = []
    for key, value in settings.items():
        if key in ("model", "data") and (inspect.isclass(value) or inspect.isfunction(value)):
            words += _describe_class(key, value)
        elif isinstance(value, Mapping):
            words += format_settings({f"{key}.{name}": entry for name, entry in value.items()})
        else:
            words.append(f"{key}={_format_value(key, value)}")
    return words


def _describe_class(key: str, maker: Any) -> list[str]:
    """Return the words of `model=custom` for a class or a function that is written in a file."""
    try:
        file = inspect.getsourcefile(maker)
    except (TypeError, OSError):
        file = None
    if file is None or not Path(file).is_file() or "." in maker.__qualname__ or maker.__module__ == "__main__":
        noun, thing = ("class", "network") if key == "model" else ("class or function", "data")
        raise ConfigError(
            f"{key}={maker.__qualname__} must be a {noun} at the top of a module, because each rank, and a later "
            f"command, builds the {thing} again from its file",
            "write it to a file of its own, and import it from there: from net import Net",
        )
    return [f"{key}=custom", f"{key}.file={_format_value(key, file)}", f"{key}.name={maker.__name__}"]


def _format_value(key: str, value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(_format_value(key, item) for item in value)}]"
    if not isinstance(value, str | int | float | Path):
        raise ConfigError(
            f"{key} must be text, a number, a list, a mapping or None, not an object of the type {type(value).__name__}, "
            "because a run directory holds its settings as data",
            _HINTS.get(key, f"write it as on the command line: {key}=…"),
        )
    text = str(value)
    if re.fullmatch(r"[\w./:+%-]*", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_HINTS = {
    "model": "give a torch.nn.Module, or its class: train(model=Net)",
    "data": "give (train, test), each a pair of arrays or an object with items (input, target)",
}
