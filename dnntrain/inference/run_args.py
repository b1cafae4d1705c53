"""A run directory that a verb is given: whether it is one, what it was started with, and whether its code may be run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dnntrain.cli.parser import Arguments, parse
from dnntrain.config.decode import load_config
from dnntrain.config.paths import paths_of
from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import nearest_run


def code_of(saved: Mapping[str, Any]) -> list[str]:
    """What names the code that a configuration would run, as it is typed: `model.file=net.py`."""
    model = saved["model"]
    custom = saved.get("choices", {}).get("model") == "custom"
    return [f"model.{key}={model[key]}" for key in ("file", "entry_point") if custom and model.get(key)]


def check_trusted(saved: Mapping[str, Any], path: Path, given: Sequence[str]) -> None:
    """A run directory is data: code that its configuration names is run only where this command line names it too."""
    named = set(code_of(saved))
    if not named <= set(given):
        raise ConfigError(
            f"{path} was trained with a model of its own, whose code would be run: {' '.join(sorted(named))}",
            f"if you trust it, say so by adding: {' '.join(sorted(named))}",
        )


def run_path(positional: Sequence[str]) -> Path:
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
        raise ConfigError(f"{path} does not exist", nearest_run(path))
    if not (path / "config.yaml").is_file():
        raise ConfigError(f"{path} is not a run directory: it has no config.yaml", nearest_run(path))


def replayed(path: Path, new: Arguments) -> Arguments:
    """The words that the run `path` was started with, less those that `new` gives anew, then those of `new`.

    Paths are those of its saved configuration: the words may be relative to another working directory.
    """
    from dnntrain.utils.words import split_words

    saved = parse(split_words((path / "overrides.txt").read_text(encoding="utf-8")))
    given = {_key(item) for item in new.overrides} | {"run_dir", "resume"}
    paths = {
        key: f"{key}={_typed(value)}"
        for key, value in paths_of(load_config(path / "config.yaml"))
        if not {key, key.partition(".")[0]} & given
    }
    kept = [item for item in saved.overrides if _key(item) not in {*given, *paths}]
    return replace(
        new, overrides=(*kept, *paths.values(), *new.overrides), config_dir=new.config_dir or saved.config_dir
    )


def _typed(value: str | list[str]) -> str:
    """A text, or a list of them, as Hydra's grammar reads it: backslashes count double before a quote only."""
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    if re.fullmatch(r"/[\w./@:+-]*", value):
        return value
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return f"'{escaped}'"


def _key(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0]
