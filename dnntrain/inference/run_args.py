"""Check a run directory that a command names, and replay its configuration.

The checks: it is a run directory, and its code may run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dnntrain.config.decode import load_config
from dnntrain.config.paths import find_paths
from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import suggest_run
from dnntrain.utils.words import read_words, split_config_dir


def custom_code_refs(config: Mapping[str, Any]) -> list[str]:
    """Return the overrides that name the code of a configuration, as typed: `model.file=net.py`."""
    model = config["model"]
    is_custom = config.get("choices", {}).get("model") == "custom"
    return [f"model.{key}={model[key]}" for key in ("file", "entry_point") if is_custom and model.get(key)]


def check_trusted(config: Mapping[str, Any], path: Path, overrides: Sequence[str]) -> None:
    """Check that the command line names the code that the configuration would run.

    A run directory is data, so its code runs only with consent. Raises ConfigError without it.
    """
    code_refs = set(custom_code_refs(config))
    if not code_refs <= set(overrides):
        raise ConfigError(
            f"{path} was trained with a custom model, whose code would run: {' '.join(sorted(code_refs))}",
            f"if you trust it, add: {' '.join(sorted(code_refs))}",
        )


def get_run_path(word: str) -> Path:
    """Return the run directory that a command was given. Raises ConfigError if it is missing or not a run directory."""
    path = Path(word).expanduser().absolute()
    check_run(path)
    return path


def check_run(path: Path) -> None:
    """Check that the folder `path` is a run directory.

    Raises ConfigError with the nearest run if not.
    """
    if not path.exists():
        raise ConfigError(f"{path} does not exist", suggest_run(path))
    if not (path / "config.yaml").is_file():
        raise ConfigError(f"{path} is not a run directory: it has no config.yaml", suggest_run(path))


def merge_saved_overrides(
    path: Path, overrides: Sequence[str], config_dir: Path | None = None
) -> tuple[tuple[str, ...], Path | None]:
    """Return the overrides and the config_dir that replay the run `path` with `overrides`.

    `overrides` replace the run's own. Paths come from the saved configuration, because the saved
    words may be relative to another working directory.
    """
    words = read_words(path / "overrides.txt")
    saved_config_dir, saved_overrides = split_config_dir(words)
    given_keys = {_get_key(item) for item in overrides} | {"run_dir", "resume"}
    path_overrides = {
        key: f"{key}={_quote_value(value)}"
        for key, value in find_paths(load_config(path / "config.yaml"))
        if not {key, key.partition(".")[0]} & given_keys
    }
    kept_overrides = [item for item in saved_overrides if _get_key(item) not in {*given_keys, *path_overrides}]
    return (*kept_overrides, *path_overrides.values(), *overrides), config_dir or saved_config_dir


def _quote_value(value: str | list[str]) -> str:
    """Return a text, or a list of texts, quoted for Hydra's grammar.

    Backslashes are doubled only before a quote.
    """
    if isinstance(value, list):
        return f"[{','.join(map(_quote_value, value))}]"
    if re.fullmatch(r"/[\w./@:+-]*", value):
        return value
    escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), value)
    return f"'{escaped}'"


def _get_key(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0]
