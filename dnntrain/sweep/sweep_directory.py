"""Read and write the folder of a sweep: trials, their status, and results.csv."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dnntrain.config.digest import compute_digest
from dnntrain.config.saved_config import write_saved_config
from dnntrain.protocols.metric import MetricInfo
from dnntrain.sweep.resources import ResourceDemand
from dnntrain.utils.csv_text import format_csv
from dnntrain.utils.files import SWEEP_FILE, make_folder, open_file, read_text, write_text
from dnntrain.utils.json_files import read_json, write_json
from dnntrain.utils.sealed_json import read_intact_json
from dnntrain.utils.words import add_config_dir, join_words

RESULTS_FILE = "results.csv"

#: The status of a trial that a search ended before its last step.
STOPPED_EARLY = "stopped early"

#: Bytes at the end of metrics.jsonl that are searched for the newest rows.
_TAIL_BYTES = 2**14


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: words, resolved configuration, and resource demand.

    `run_dir` of the configuration is `folder`. `step_flops` are the FLOPs of one step's forward and
    backward passes. `metric_info` is how `eval.metric` is read; None if the trial has no plan.
    """

    number: int
    words: tuple[str, ...]
    swept_words: tuple[str, ...]
    config: Mapping[str, Any]
    folder: Path
    demand: ResourceDemand
    total_steps: int = 0
    step_flops: float = 0.0
    metric_info: MetricInfo | None = None

    @property
    def label(self) -> str:
        """The words that distinguish this trial: `sched=step optim.lr=0.1`."""
        return " ".join(self.swept_words) or "the only trial"

    @property
    def metric(self) -> str:
        metric_name: str = self.config["eval"]["metric"]
        return metric_name

    @property
    def info(self) -> MetricInfo:
        return self.metric_info or MetricInfo(self.metric)

    @cached_property
    def config_digest(self) -> str:
        return compute_digest(self.config)


@dataclass
class TrialStatus:
    """The status of a trial.

    `exit_code` is the exit code of its process, None before its end. A trial that `is_final` is not
    tried again, though it is not done.
    """

    status: str = "waiting"
    step: int = 0
    metric: float | None = None
    best: float | None = None
    value: float | None = None
    wall_s: float | None = None
    exit_code: int | None = None
    reason: str = ""
    is_final: bool = False

    @property
    def is_done(self) -> bool:
        return self.status in ("done", STOPPED_EARLY)

    @property
    def is_queued(self) -> bool:
        """True if a job of a queue has yet to end."""
        return self.status in ("queued", "running")


def read_status(trial: Trial) -> TrialStatus:
    """Read the status of `trial` from its folder: done, waiting or broken off."""
    if not trial.folder.is_dir():
        return TrialStatus()
    result = read_intact_json(trial.folder / "result.json")
    is_done = result.get("status") == "done" and result.get("config_digest") == trial.config_digest
    if is_done and not _lacks_report(trial):
        return _make_status("done", result, 0)
    status = TrialStatus()
    update_status(status, trial)
    status.step = _make_status("", result, 0).step or status.step
    if status.step or (trial.folder / "checkpoints" / "LAST").is_file():
        status.status = "broken off"
    return status


def _lacks_report(trial: Trial) -> bool:
    """Return whether a kill came between the end of the run and its report, which its checkpoint can still make."""
    has_checkpoint = (trial.folder / "checkpoints" / "LAST").is_file()
    return (
        has_checkpoint
        and bool(trial.config.get("log", {}).get("report"))
        and not (trial.folder / "report.html").is_file()
    )


def status_after_exit(trial: Trial, exit_code: int) -> TrialStatus:
    """Return the status of `trial` after its process ended with `exit_code`.

    A negative `exit_code` is the signal that killed it.
    """
    result = read_json(trial.folder / "result.json")
    status = str(result.get("status") or "")
    if exit_code == 0 and status == "done":
        return _make_status("done", result, 0)
    if status in ("", "done"):
        status = {2: "refused", 4: "diverged", 75: "preempted", 130: "interrupted"}.get(exit_code, "failed")
        status = "killed" if exit_code < 0 else status
    trial_status = _make_status(status, result, exit_code)
    # The last row may be of an earlier step than the last step of the run.
    result_step = trial_status.step
    update_status(trial_status, trial)
    trial_status.step = result_step or trial_status.step
    trial_status.reason = trial_status.reason or (
        f"by signal {-exit_code}" if exit_code < 0 else _find_last_message(trial.folder / "output.txt")
    )
    return trial_status


def update_status(status: TrialStatus, trial: Trial) -> None:
    """Update `status` with the newest step and values in the trial's metrics.jsonl."""
    for row in _read_newest_rows(trial.folder / "metrics.jsonl"):
        step, value = row.get("step"), row.get(trial.metric)
        if isinstance(step, int):
            status.step = step
        if row.get("split") == "val" and isinstance(value, int | float):
            status.metric = float(value)


def freeze_trial(trial: Trial, config_dir: Path | None) -> None:
    """Create the folder of `trial` with its configuration.

    Its process reads nothing else.
    """
    make_folder(trial.folder)
    write_saved_config(trial.folder, trial.config)
    write_text(trial.folder / "overrides.txt", join_words(add_config_dir(config_dir, trial.words)))


def read_names_by_digest(folder: Path) -> dict[str, str]:
    """Return config digest → folder name of earlier trials in a sweep's folder."""
    return {str(item.get("config_digest")): item["trial"] for item in _read_list(folder)}


def find_trial_folders(folder: Path) -> list[Path] | None:
    """Return the run directories of the started trials of a sweep, in order.

    None if `folder` does not belong to a sweep.
    """
    if not (folder / SWEEP_FILE).is_file():
        return None
    return [
        folder / item["trial"] for item in _read_list(folder) if (folder / item["trial"] / "metrics.jsonl").is_file()
    ]


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


def write_results(folder: Path, trials: Sequence[Trial], statuses: Sequence[TrialStatus]) -> None:
    """Write results.csv: one row per trial; cells for unknown values are empty. No trials, no file."""
    if not trials:
        return
    rows = [result_row(trial, status) for trial, status in zip(trials, statuses, strict=True)]
    write_text(folder / RESULTS_FILE, format_csv([rows[0].keys(), *(row.values() for row in rows)]))


def result_row(trial: Trial, status: TrialStatus) -> dict[str, Any]:
    """Return one row of results.csv.

    `value` is the metric on the test split, `best` the best on the validation split.
    """
    return {
        "trial": trial.number,
        "overrides": trial.label if trial.swept_words else "",
        "status": status.status,
        "metric": trial.metric,
        "value": status.value,
        "best": status.best,
        "steps": status.step,
        "time_s": status.wall_s,
        "run_dir": str(trial.folder),
    }


def _make_status(status: str, result: Mapping[str, Any], exit_code: int) -> TrialStatus:
    def get_number(name: str) -> float | None:
        value = result.get(name)
        return float(value) if isinstance(value, int | float) else None

    reason = result.get("reason")
    return TrialStatus(
        status=status,
        step=int(get_number("steps") or 0),
        best=get_number("best"),
        value=get_number("value"),
        wall_s=get_number("wall_s"),
        exit_code=exit_code,
        reason=str(reason) if reason else "",
    )


def _read_newest_rows(path: Path) -> list[dict[str, Any]]:
    """Return the complete rows at the end of a file of rows, in order."""
    try:
        with open_file(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    rows = []
    for line in lines[1 if size > _TAIL_BYTES else 0 :]:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            rows.append(value)
    return rows


def _find_last_message(path: Path) -> str:
    """Return the last line in which dnntrain says why it ended, else the last line."""
    try:
        lines = read_text(path, errors="replace")[-_TAIL_BYTES:].splitlines()
    except OSError:
        return ""
    messages = [line.removeprefix("dnntrain: ") for line in lines if line.startswith("dnntrain: ")]
    return (messages or [line for line in lines if line.strip()] or [""])[-1][:300]
