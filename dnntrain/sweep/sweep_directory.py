"""Read and write the folder of a trial and its status, and results.csv of a sweep."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.config.digest import compute_digest
from dnntrain.config.saved_config import write_saved_config
from dnntrain.sweep.resources import ResourceDemand
from dnntrain.utils.csv_text import format_csv
from dnntrain.utils.files import FOLDS_FILE, make_folder, open_file, read_text, write_text
from dnntrain.utils.sealed_json import read_intact_json
from dnntrain.utils.words import add_config_dir, join_words

if TYPE_CHECKING:
    from dnntrain.protocols.metric import MetricInfo

RESULTS_FILE = "results.csv"

#: The status of a trial that a search ended before its last step.
STOPPED_EARLY = "stopped early"

#: The statuses of a run that ended by itself and is not done, as result.json has them.
_FAILURES = ("diverged", "refused", "failed")

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
        from dnntrain.protocols.metric import MetricInfo  # it imports numpy

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
    """Read the status of `trial` from its folder: done, waiting, broken off, or how it failed."""
    if not trial.folder.is_dir():
        return TrialStatus()
    result = _read_result(trial.folder)
    is_done = result.get("status") == "done" and result.get("config_digest") == trial.config_digest
    if is_done and not _lacks_report(trial):
        return _make_status("done", result, 0)
    if result.get("status") in _FAILURES and result.get("config_digest") in (None, trial.config_digest):
        return read_failure(trial)
    status = TrialStatus()
    update_status(status, trial)
    status.step = _make_status("", result, 0).step or status.step
    if status.step or (trial.folder / "checkpoints" / "LAST").is_file():
        status.status = "broken off"
    return status


def read_failure(trial: Trial) -> TrialStatus:
    """Return how a trial that is not done has ended, by its result."""
    exit_code = _read_result(trial.folder).get("exit_code")
    return status_after_exit(trial, exit_code if isinstance(exit_code, int) else 1)


def _read_result(folder: Path) -> dict[str, Any]:
    """Return the result of a run, or that of the runs of a cross-validation."""
    return read_intact_json(folder / "result.json") or read_intact_json(folder / FOLDS_FILE)


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
    result = _read_result(trial.folder)
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


def get_exit_code(statuses: Sequence[TrialStatus]) -> int:
    """Return 0 if all trials are done, else the exit code of the first one that is not.

    1 if a signal killed it.
    """
    unfinished = next((status for status in statuses if not status.is_done), None)
    if unfinished is None:
        return 0
    return unfinished.exit_code if unfinished.exit_code is not None and unfinished.exit_code > 0 else 1


def freeze_trial(trial: Trial, config_dir: Path | None) -> None:
    """Create the folder of `trial` with its configuration.

    Its process reads nothing else.
    """
    make_folder(trial.folder)
    write_saved_config(trial.folder, trial.config)
    write_text(trial.folder / "overrides.txt", join_words(add_config_dir(config_dir, trial.words)))


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
