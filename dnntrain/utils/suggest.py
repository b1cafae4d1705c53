"""Suggest the nearest valid name, and the run that may be meant."""

from __future__ import annotations

import os
from pathlib import Path

#: Runs that a hint names.
_RUNS_LISTED = 5


def suggest_run(path: str | Path, required_file: str = "config.yaml") -> str:
    """Return a hint with the run under ./runs that is most like `path`.

    If none is near, the hint lists some runs. `required_file` is a file that each suggested run
    must have.
    """
    runs = sorted({str(file.parent) for form in ("*", "*/*") for file in Path("runs").glob(f"{form}/{required_file}")})
    if not runs:
        return "there are no runs under ./runs"
    cwd_prefix = f"{Path.cwd()}/"
    if match := find_nearest(str(path).removeprefix(cwd_prefix), runs):
        return f"did you mean {match}?"
    return f"known: {', '.join(runs[:_RUNS_LISTED])}" + (
        f" and {len(runs) - _RUNS_LISTED} more" if len(runs) > _RUNS_LISTED else ""
    )


def find_nearest(word: str, names: list[str] | tuple[str, ...]) -> str | None:
    """Return the name most like `word`, or None if none is near.

    Fewest edits count first, then the largest common share.
    """
    from difflib import SequenceMatcher

    lower_word = word.lower()

    def compute_distance(name: str) -> tuple[int, float]:
        share = SequenceMatcher(None, lower_word, name.lower()).ratio()
        return compute_edit_distance(lower_word, name.lower()), -share

    if not names or len(word) > 200:
        return None
    best = min(names, key=compute_distance)
    edits = compute_distance(best)[0]
    if edits <= max(1, len(word) // 3) and edits < max(len(word), 2):
        return best
    best = min(names, key=lambda name: compute_distance(name)[1])
    return best if compute_distance(best)[1] <= -0.6 else None


def compute_edit_distance(left: str, right: str) -> int:
    """Return the edit distance of two words.

    The fewest insertions, deletions, substitutions and swaps of neighbors that turn `left` into
    `right`.
    """
    previous_row: list[int] = []
    row = list(range(len(right) + 1))
    for i, letter in enumerate(left, 1):
        previous_row, second_previous_row, row = row, previous_row, [i]
        for j, right_letter in enumerate(right, 1):
            cost = min(row[j - 1] + 1, previous_row[j] + 1, previous_row[j - 1] + (letter != right_letter))
            if i > 1 and j > 1 and letter == right[j - 2] and left[i - 2] == right_letter:
                cost = min(cost, second_previous_row[j - 2] + 1)
            row.append(cost)
    return row[-1]


def did_you_mean(word: str, names: list[str] | tuple[str, ...]) -> str:
    """Return a sentence with the nearest of `names`, or with all if none is near."""
    match = find_nearest(word, names)
    if match is not None:
        return f"did you mean {match!r}?"
    return "known: " + ", ".join(sorted(names)) if names else "there are none"


def describe_missing_run(path: Path) -> str:
    """Return why `path` is not a run directory, and the run that may be meant."""
    from dnntrain.utils.files import is_run_directory  # here, so that --help does not import shutil

    try:
        exists, is_folder = path.exists(), path.is_dir()
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    problem = "has none of the files of a run" if is_folder else "is not a folder" if exists else "does not exist"
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
    """Return a hint that names the newest runs, or says that there are none."""
    runs = find_newest_runs([Path("runs")])
    return f"newest runs: {', '.join(map(format_path, runs[:3]))}" if runs else "there are no runs under ./runs"


def find_newest_runs(folders: list[Path], max_runs: int = 1000) -> list[Path]:
    """Return the run directories at most two levels below `folders`, newest first."""
    from dnntrain.utils.files import is_run_directory

    run_times: dict[Path, float] = {}
    for folder in folders:
        for pattern in ("*", "*/*"):
            for path in folder.glob(pattern):
                if len(run_times) < max_runs and path.is_dir() and is_run_directory(path):
                    run_times[path] = path.stat().st_mtime
    return sorted(run_times, key=lambda path: -run_times[path])


def format_path(path: Path) -> str:
    """Return the path as you would type it here.

    It is relative if it is below the working folder.
    """
    try:
        return str(Path(os.path.abspath(path)).relative_to(Path.cwd()))  # noqa: PTH100  (resolve() would follow links)
    except ValueError:
        return str(path)
