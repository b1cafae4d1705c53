"""Open the configuration of a run directory or an export that a command names.

The saved configuration is data from someone else: this is the one place that decodes it. It checks
the checksum, composes the overrides of the command over it, and asks for consent to its code.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.config.groups import LISTS, SINGLE
from dnntrain.config.run_config import RunConfig
from dnntrain.config.saved_config import CONFIG_NAME, read_saved_config
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.export.manifest import MANIFEST_NAME, is_export
from dnntrain.nn.model_paths import has_checkpoint
from dnntrain.utils.files import SWEEP_FILE
from dnntrain.utils.hardware import probe_hardware_without_torch
from dnntrain.utils.suggest import suggest_run
from dnntrain.utils.words import get_key, read_words

#: The groups that a trained model is built from.
MODEL_GROUPS = ("task", "data", "model", "norm", "precision")

#: The groups that training is built from: all but those that act while a run trains.
TRAINING_GROUPS = tuple(group for group in (*SINGLE, *LISTS) if group not in ("launch", "track"))

#: The files of exports that a run does not have.
_MODEL_FILE = re.compile(r"model(_int8)?\.(onnx|pt2|xml)")

#: The keys that ask for a download.
_DOWNLOAD_KEYS = {"data.download", "model.download", "model.pretrained", "model.weights", "distill.teacher"}


def get_run_path(word: str) -> Path:
    """Return the run directory that a command was given. Raises ConfigError if it is missing or not a run directory."""
    path = Path(word).expanduser().absolute()
    check_run(path)
    return path


def check_run(path: Path) -> None:
    """Check that the folder `path` is a run directory.

    Raises ConfigError with the nearest run if not, and CheckpointError if it is an export without its manifest.
    """
    if not path.exists():
        raise ConfigError(f"{path} does not exist", suggest_run(path))
    if not (path / CONFIG_NAME).is_file():
        if path.is_dir() and (
            models := sorted(file.name for file in path.iterdir() if _MODEL_FILE.fullmatch(file.name))
        ):
            raise CheckpointError(
                f"{path} has {models[0]}, but no {MANIFEST_NAME} that describes it",
                "restore it from a copy, or export again",
            )
        if (path / SWEEP_FILE).is_file():
            raise ConfigError(
                f"{path} is the folder of a sweep, not a run directory",
                "repeat the command of the sweep to continue it, or name the folder of one trial in it",
            )
        raise ConfigError(f"{path} is not a run directory: it has no {CONFIG_NAME}", suggest_run(path))


def check_model(path: Path, overrides: Sequence[str] = ()) -> None:
    """Check that `path` is an export or a run with a model, and that the device of `overrides` may exist.

    A run that is not done has a model if it has a checkpoint. This needs no torch, and reads no
    configuration. Raises ConfigError or CheckpointError if not.
    """
    if is_export(path):
        return  # its format names the devices that it runs on
    for word in overrides:
        if word.lstrip("+").startswith("device="):
            probe_hardware_without_torch(word.partition("=")[2])
    check_run(path)
    if not has_checkpoint(path):
        check_card(path)


def check_card(path: Path) -> None:
    """Check that the run directory `path` has config.json, the description of a model.

    Raises CheckpointError if not.
    """
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"{path} holds no finished model: config.json is missing", f"finish it with: dnntrain resume {path}"
        )


def open_run_config(path: Path, overrides: Sequence[str] = (), *, trust: bool = False) -> RunConfig:
    """Return the configuration of the run `path`, as saved, with `overrides`, to use its model.

    Raises ConfigError if `overrides` are invalid, or if the model is code that nobody trusts;
    CheckpointError if the saved configuration is damaged.
    """
    saved = read_saved_config(path)
    return decode_foreign(compose(overrides, saved=saved) if overrides else saved, path, overrides, trust=trust)


def decode_foreign(
    container: Mapping[str, Any],
    path: Path,
    overrides: Sequence[str],
    *,
    trust: bool = False,
    groups: Sequence[str] = MODEL_GROUPS,
) -> RunConfig:
    """Decode a configuration that `path` holds, after a check of what it would run.

    The choices of `groups` are checked as they were decoded. Unless `overrides` ask for it, nothing
    is downloaded. Raises ConfigError if it names code that neither `overrides` name nor `trust`
    allows.
    """
    config = decode_config(container)
    if not trust:
        check_trusted(config, path, overrides, groups)
    if "data.download" not in get_given_keys(overrides):
        config = replace(config, data=config.data.without_download())
    return config


def check_trusted(
    config: RunConfig, path: Path, overrides: Sequence[str], groups: Sequence[str] = (*SINGLE, *LISTS)
) -> None:
    """Check that the command line names the code that the configuration would run.

    Raises ConfigError if not.
    """
    given = get_given_keys(overrides)
    values = list_code_values(config, groups)
    settings = [_format_setting(key, value) for key, value in values.items() if key not in given]
    if settings:
        text = " ".join(settings)
        raise ConfigError(
            f"{path} names code or an address, which would be used: {text}",
            f"if you trust it, add: {text}, or --trust (in Python: trust=True)",
        )


def get_given_keys(overrides: Sequence[str]) -> set[str]:
    """Return the keys that the words of a command line set."""
    return set(map(get_key, overrides))


def list_code_values(config: RunConfig, groups: Sequence[str] = MODEL_GROUPS) -> dict[str, Any]:
    """Return the values of the settings that name code or an address, by key."""
    values = vars(config)
    settings: dict[str, Any] = {}
    for group in groups:
        choices = values[group] if group in LISTS else {"": values[group]}
        for name, choice in choices.items():
            key = f"{group}.{name}" if name else group
            settings |= {f"{key}.{option}": vars(choice)[option] for option in choice.list_code_options()}
    return settings


def _format_setting(key: str, value: Any) -> str:
    text = f"[{','.join(map(str, value))}]" if isinstance(value, tuple | list) else str(value)
    return shlex.quote(f"{key}={text}")


def find_download_refusal(overrides: Sequence[str]) -> str:
    """Return why a saved configuration may download nothing; empty if `overrides` ask for a download."""
    if get_given_keys(overrides) & _DOWNLOAD_KEYS:
        return ""
    return "a saved configuration downloads nothing"


def merge_words(path: Path, overrides: Sequence[str]) -> list[str]:
    """Return the words of overrides.txt, changed by `overrides`, as a record of how the run was made.

    Nothing is composed from them. Raises CheckpointError if the file is damaged.
    """
    file = path / "overrides.txt"
    saved_words = read_words(file) if file.exists() else []
    given = get_given_keys(overrides)
    return [*(word for word in saved_words if not get_given_keys([word]) & given), *overrides]
