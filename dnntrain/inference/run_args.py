"""A run directory that a verb is given: whether it is one, what it was started with, and whether its code may be run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dnntrain.cli.parser import Arguments, parse_arguments
from dnntrain.config.decode import load_config
from dnntrain.config.paths import find_paths
from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import suggest_run


def custom_code_refs(config: Mapping[str, Any]) -> list[str]:
    """What names the code that a configuration would run, as it is typed: `model.file=net.py`."""
    model = config["model"]
    is_custom = config.get("choices", {}).get("model") == "custom"
    return [f"model.{key}={model[key]}" for key in ("file", "entry_point") if is_custom and model.get(key)]


def check_trusted(config: Mapping[str, Any], path: Path, overrides: Sequence[str]) -> None:
    """A run directory is data: code that its configuration names is run only where this command line names it too."""
    code_refs = set(custom_code_refs(config))
    if not code_refs <= set(overrides):
        raise ConfigError(
            f"{path} was trained with a model of its own, whose code would be run: {' '.join(sorted(code_refs))}",
            f"if you trust it, say so by adding: {' '.join(sorted(code_refs))}",
        )


def get_run_path(positional: Sequence[str]) -> Path:
    """The one run directory that a verb was given. Raises ConfigError where it is missing or is none."""
    if len(positional) != 1:
        raise ConfigError(
            f"one run directory is needed, {len(positional)} were given", "as in: dnntrain resume runs/NAME/ID"
        )
    path = Path(positional[0]).expanduser().absolute()
    check_run(path)
    return path


def check_run(path: Path) -> None:
    """Raises ConfigError, naming the nearest run, where the folder `path` is none."""
    if not path.exists():
        raise ConfigError(f"{path} does not exist", suggest_run(path))
    if not (path / "config.yaml").is_file():
        raise ConfigError(f"{path} is not a run directory: it has no config.yaml", suggest_run(path))


def merge_saved_overrides(path: Path, new: Arguments) -> Arguments:
    """The words that the run `path` was started with, less those that `new` gives anew, then those of `new`.

    Paths are those of its saved configuration: the words may be relative to another working directory.
    """
    from dnntrain.utils.words import split_words

    saved_arguments = parse_arguments(split_words((path / "overrides.txt").read_text(encoding="utf-8")))
    given_keys = {_get_key(item) for item in new.overrides} | {"run_dir", "resume"}
    path_overrides = {
        key: f"{key}={_quote_value(value)}"
        for key, value in find_paths(load_config(path / "config.yaml"))
        if not {key, key.partition(".")[0]} & given_keys
    }
    kept_overrides = [
        item for item in saved_arguments.overrides if _get_key(item) not in {*given_keys, *path_overrides}
    ]
    return replace(
        new,
        overrides=(*kept_overrides, *path_overrides.values(), *new.overrides),
        config_dir=new.config_dir or saved_arguments.config_dir,
    )


def _quote_value(value: str | list[str]) -> str:
    """A text, or a list of them, as Hydra's grammar reads it: backslashes count double before a quote only."""
    if isinstance(value, list):
        return f"[{','.join(map(_quote_value, value))}]"
    if re.fullmatch(r"/[\w./@:+-]*", value):
        return value
    escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), value)
    return f"'{escaped}'"


def _get_key(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0]
