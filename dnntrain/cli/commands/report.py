"""`dnntrain report RUN…`: write the report of a run, or compare runs or the trials of a sweep."""

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
    """Write the page and print its path.

    One run gives report.html and curves.png, several give comparison.html.
    """
    from dnntrain.report import write_curves, write_report

    paths = find_run_directories(arguments.positional)
    if len(paths) == 1:
        write_curves(paths[0])
    page = write_report(paths)
    print(json.dumps({"report": str(page)}) if arguments.json else format_path(page))
    return 0


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
