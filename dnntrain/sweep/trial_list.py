"""Read and write sweep.json, the list of the trials of a sweep, and find their run directories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dnntrain.sweep.sweep_directory import Trial
from dnntrain.utils.files import FOLDS_FILE, SWEEP_FILE
from dnntrain.utils.json_files import read_json, write_json


def read_names_by_digest(folder: Path) -> dict[str, str]:
    """Return config digest → folder name of earlier trials in a sweep's folder."""
    return {str(item.get("config_digest")): item["trial"] for item in _read_list(folder)}


def find_trial_folders(folder: Path) -> list[Path] | None:
    """Return the run directories of the started trials of a sweep, or of the runs of a cross-validation, in order.

    None if `folder` is of another kind.
    """
    if (folder / FOLDS_FILE).is_file():
        trials = list_fold_folders(folder)
    elif (folder / SWEEP_FILE).is_file():
        trials = [path for item in _read_list(folder) for path in list_fold_folders(folder / item["trial"])]
    else:
        return None
    return [path for path in trials if (path / "metrics.jsonl").is_file()]


def list_fold_folders(folder: Path) -> list[Path]:
    """Return the run directories of a cross-validation in `folder`; `folder` itself if it is of a single run."""
    if not (folder / FOLDS_FILE).is_file():
        return [folder]
    folders = [path for path in folder.glob("fold-*") if path.name.removeprefix("fold-").isdecimal()]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("fold-")))


def _read_list(folder: Path) -> list[dict[str, Any]]:
    """Return the trials of sweep.json that name a folder directly below."""
    trials = read_json(folder / SWEEP_FILE).get("trials")
    items = [item for item in trials if isinstance(item, dict)] if isinstance(trials, list) else []
    names = [str(item.get("trial", "")) for item in items]
    return [
        {**item, "trial": name}
        for item, name in zip(items, names, strict=True)
        if "\0" not in name and name == Path(name).name and name not in ("", ".", "..")
    ]


def write_list(folder: Path, trials: Sequence[Trial]) -> None:
    """Write sweep.json: every trial by the name of its folder."""
    items = [
        {
            "trial": trial.folder.name,
            "swept": trial.swept_words,
            "words": trial.words,
            "config_digest": trial.config_digest,
        }
        for trial in trials
    ]
    write_json(folder / SWEEP_FILE, {"schema": 1, "trials": items})
