"""`dnntrain report RUN…`: the report of one run, or the comparison of several, or of the trials of a sweep."""

from __future__ import annotations

import json
import os
from pathlib import Path

from dnntrain.cli.parser import Arguments
from dnntrain.errors import ConfigError
from dnntrain.report.load_run import is_run_directory
from dnntrain.sweep.sweep_directory import find_trial_folders
from dnntrain.utils.suggest import find_nearest


def run(arguments: Arguments) -> int:
    """Writes report.html and curves.png of one run, or comparison.html of several, and prints the page's path."""
    from dnntrain.report import write_curves, write_report

    paths = get_run_directories(arguments)
    if len(paths) == 1:
        write_curves(paths[0])
    page = write_report(paths)
    print(json.dumps({"report": str(page)}) if arguments.json else format_path(page))
    return 0


def get_run_directories(arguments: Arguments) -> list[Path]:
    """The run directories that were named. Raises ConfigError that lists those that are none, with the nearest run."""
    if arguments.overrides:
        raise ConfigError(
            f"report takes run directories; {arguments.overrides[0]!r} is a setting",
            "as in: dnntrain report runs/NAME/ID",
        )
    if not arguments.positional:
        raise ConfigError(
            "report needs a run directory", describe_newest_runs() or "as in: dnntrain report runs/NAME/ID"
        )
    paths = [path for word in arguments.positional for path in _expand_sweep(Path(word).expanduser())]
    mistakes = [describe_mistake(path) for path in paths if not is_run_directory(path)]
    if mistakes:
        raise ConfigError.from_mistakes(mistakes)
    return paths


def _expand_sweep(path: Path) -> list[Path]:
    """The trials of a sweep that have begun, where `path` is its folder; else `path` itself."""
    try:
        trials = find_trial_folders(path)
    except (OSError, ValueError):
        return [path]
    if trials == []:
        raise ConfigError(
            f"no trial of the sweep {format_path(path)} has begun", "the line that made it goes on with it"
        )
    return trials or [path]


def describe_mistake(path: Path) -> str:
    """Why `path` is no run directory, and which run may be meant."""
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    problem = "has none of the files of a run" if is_folder else "is no folder" if exists else "does not exist"
    if is_run_directory(path.parent):
        return f"{path} {problem}\n  did you mean {format_path(path.parent)}?"
    if inner_runs := find_newest_runs([path]):
        return f"{path} {problem}\n  its newest run: {format_path(inner_runs[0])}"
    suggestion = find_nearest(
        format_path(path),
        [format_path(run) for run in find_newest_runs([Path("runs"), path.parent, path.parent.parent])],
    )
    return f"{path} {problem}\n  " + (f"did you mean {suggestion}?" if suggestion else describe_newest_runs())


def describe_newest_runs() -> str:
    """A hint that names the newest runs, or says that there are none."""
    runs = find_newest_runs([Path("runs")])
    return f"newest runs: {', '.join(map(format_path, runs[:3]))}" if runs else "there are no runs under ./runs"


def find_newest_runs(folders: list[Path], max_runs: int = 1000) -> list[Path]:
    """The run directories at most two levels below `folders`, newest first."""
    run_times: dict[Path, float] = {}
    for folder in folders:
        for pattern in ("*", "*/*"):
            for path in folder.glob(pattern):
                if len(run_times) < max_runs and path.is_dir() and is_run_directory(path):
                    run_times[path] = path.stat().st_mtime
    return sorted(run_times, key=lambda path: -run_times[path])


def format_path(path: Path) -> str:
    """The path as a person would type it here: relative where it lies below the working folder."""
    try:
        return str(Path(os.path.abspath(path)).relative_to(Path.cwd()))  # noqa: PTH100  (resolve() would follow links)
    except ValueError:
        return str(path)
