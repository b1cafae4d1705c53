"""`dnntrain report RUN…`: the report of one run, or the comparison of several, or of the trials of a sweep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dnntrain.cli.parser import Arguments
from dnntrain.errors import ConfigError
from dnntrain.sweep.sweep_directory import find_trial_folders
from dnntrain.utils.files import is_run_directory
from dnntrain.utils.suggest import describe_missing_run, format_path


def run(arguments: Arguments) -> int:
    """Write report.html and curves.png of one run, or comparison.html of several, and print the path of the page."""
    from dnntrain.report import write_curves, write_report

    paths = find_run_directories(arguments.positional)
    if len(paths) == 1:
        write_curves(paths[0])
    page = write_report(paths)
    print(json.dumps({"report": str(page)}) if arguments.json else format_path(page))
    return 0


def find_run_directories(words: Sequence[str]) -> list[Path]:
    """Return the run directories that the line names. Raises ConfigError that lists the others, with the nearest run."""
    paths = [path for word in words for path in _expand_sweep(Path(word).expanduser())]
    mistakes = [describe_missing_run(path) for path in paths if not is_run_directory(path)]
    if mistakes:
        raise ConfigError.from_mistakes(mistakes)
    return paths


def _expand_sweep(path: Path) -> list[Path]:
    """Return the trials of a sweep that have begun if `path` is its folder, else `path` itself."""
    try:
        trials = find_trial_folders(path)
    except (OSError, ValueError):
        return [path]
    if trials == []:
        raise ConfigError(
            f"no trial of the sweep {format_path(path)} has begun", "start the sweep with the line that made it"
        )
    return trials or [path]
