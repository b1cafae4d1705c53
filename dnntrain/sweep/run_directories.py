"""Find the runs that the words of a command name: run directories, and the trials of sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dnntrain.errors import ConfigError
from dnntrain.sweep.trial_list import find_trial_folders
from dnntrain.utils.files import is_run_directory
from dnntrain.utils.suggest import describe_missing_run, format_path


def find_run_directories(words: Sequence[str]) -> list[Path]:
    """Return the run directories that the line names.

    Raises ConfigError that lists each word that is not a run directory, with the nearest run.
    """
    paths = [path for word in words for path in _expand_sweep(Path(word).expanduser())]
    mistakes = [describe_missing_run(path) for path in paths if not is_run_directory(path)]
    if mistakes:
        raise ConfigError.from_mistakes(mistakes)
    return paths


def _expand_sweep(path: Path) -> list[Path]:
    """Return the started trials if `path` is the folder of a sweep, else `path` itself."""
    try:
        trials = find_trial_folders(path)
    except (OSError, ValueError):
        return [path]
    if trials == []:
        raise ConfigError(
            f"no trial of the sweep {format_path(path)} has started", "start the sweep again with its command"
        )
    return trials or [path]
