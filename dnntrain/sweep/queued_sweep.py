"""A sweep in a job queue: one Slurm job for each trial, and its status from any machine that sees the folder.

Nothing waits for the jobs. The same command again submits the trials that are neither done nor in the queue.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dnntrain.config.decode import decode_light_config
from dnntrain.errors import ConfigError, DnntrainError
from dnntrain.planning.checks.early import decode_new_run
from dnntrain.protocols.metric import MetricInfo
from dnntrain.report.load_run import read_metric_infos
from dnntrain.run.directory import lock_folder
from dnntrain.run.slurm_job import check_sbatch, make_job_script, submit_script
from dnntrain.sweep.grid import Combination, leave_out_folder
from dnntrain.sweep.resources import ResourceDemand
from dnntrain.sweep.sweep_directory import (
    Trial,
    TrialStatus,
    freeze_trial,
    get_exit_code,
    read_status,
    result_row,
    write_results,
)
from dnntrain.sweep.trial_list import write_list
from dnntrain.sweep.trial_text import list_best, summarize_trial
from dnntrain.utils.files import make_folder, write_text
from dnntrain.utils.json_files import format_json, read_json, write_json
from dnntrain.utils.terminal_text import clean_line
from dnntrain.utils.units import pluralize
from dnntrain.utils.world import World

#: The files in the folder of a trial that name its job and its user, and that the job executes.
JOB_FILE, SCRIPT_FILE = "job.json", "job.sh"

#: Seconds that the queue may take to answer.
_QUEUE_WAIT_S = 60.0


@dataclass(frozen=True)
class QueuedSweep:
    """A checked sweep whose trials are jobs."""

    folder: Path
    trials: tuple[Trial, ...]


def find_job_mistakes(config: Mapping[str, Any], path: Path) -> list[str]:
    """Return the mistakes of a job that are found without its hardware, also those of the batch script."""
    try:
        make_job_script(decode_new_run({**config, "run_dir": str(path)}, World()), path)
    except DnntrainError as error:
        return list(error.mistakes) if isinstance(error, ConfigError) else [str(error)]
    return []


def make_queued_trial(number: int, combination: Combination, config: Mapping[str, Any], path: Path) -> Trial:
    """Return a trial without a plan: the machine that submits a job lacks the hardware of the job."""
    container = {**config, "run_dir": str(path)}
    launch = decode_light_config(container)[0].launch
    demand = ResourceDemand(launch.nodes * launch.tasks_per_node)
    words = leave_out_folder(combination.words)
    return Trial(number, words, combination.swept_words, container, path, demand)


def submit_sweep(
    sweep: QueuedSweep, config_dir: Path | None, limit: int | None, dry_run: bool = False
) -> Sequence[TrialStatus]:
    """Submit a job for each trial that is neither done nor queued, and return the status of all.

    A trial that diverged would do so again, and is not submitted. At most `limit` of the jobs run at
    once. With `dry_run` nothing is submitted. Raises ConfigError if the queue rejects a job.
    """
    if dry_run:
        return read_statuses(sweep)
    if not sweep.folder.exists():
        check_sbatch()  # the lock makes the folder
    with lock_folder(sweep.folder):
        statuses = read_statuses(sweep)
        waiting = [(trial, status) for trial, status in zip(sweep.trials, statuses, strict=True) if _needs_job(status)]
        if waiting:
            check_sbatch()
        write_list(sweep.folder, sweep.trials)
        try:
            for number, (trial, status) in enumerate(waiting):
                slot = number % (limit or len(waiting))
                _submit_trial(trial, config_dir, f"{sweep.folder.name}.{slot}", limit is not None)
                status.status = "queued"
        finally:
            write_results(sweep.folder, sweep.trials, statuses)
    if waiting:
        print(f"{pluralize(len(waiting), 'job')} submitted; the same command shows their status", file=sys.stderr)
    return statuses


def _submit_trial(trial: Trial, config_dir: Path | None, job_name: str, is_limited: bool) -> None:
    freeze_trial(trial, config_dir)
    make_folder(trial.folder / "logs")
    path = trial.folder / SCRIPT_FILE
    write_text(path, make_job_script(decode_light_config(trial.config)[0], trial.folder))
    # Of the jobs of one name and user, a singleton waits until no other one runs.
    options = ["--dependency=singleton"] if is_limited else []
    job = submit_script(path, [f"--job-name={job_name}", *options])
    write_json(trial.folder / JOB_FILE, {"job": job, "user": _get_user()})


def read_statuses(sweep: QueuedSweep) -> list[TrialStatus]:
    """Return the status of each trial by its files, and whether its job is queued or runs."""
    jobs = [read_json(trial.folder / JOB_FILE) for trial in sweep.trials]
    scripts = [trial.folder / SCRIPT_FILE for trial in sweep.trials]
    has_jobs = any(job or script.exists() for job, script in zip(jobs, scripts, strict=True))
    states = _read_queue({str(job["user"]) for job in jobs if job.get("user")}) if has_jobs else {}
    statuses = []
    for trial, job, script in zip(sweep.trials, jobs, scripts, strict=True):
        status = read_status(trial)
        # Its script names a job that was submitted just before the command was killed.
        state = states.get(str(job.get("job"))) or states.get(str(script))
        if not status.is_done and state is not None:
            is_running = state in ("RUNNING", "COMPLETING")
            status = TrialStatus("running" if is_running else "queued", status.step, status.metric)
        statuses.append(status)
    return statuses


def _needs_job(status: TrialStatus) -> bool:
    return not status.is_done and not status.is_queued and status.status != "diverged"


def _get_user() -> str:
    """Return the name of this user, or the number if there is no name. Variables such as USER may be another's."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _read_queue(users: Collection[str]) -> Mapping[str, str]:
    """Return the state of each job of this user and of `users`, by its number and by its script; none without a queue."""
    users = sorted({_get_user(), *users})
    command = ["squeue", "--noheader", f"--user={','.join(users)}", "--format=%i %T %o"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=_QUEUE_WAIT_S)
    except FileNotFoundError:
        return {}
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"squeue did not answer within {_QUEUE_WAIT_S:.0f} s", "try again when Slurm's controller answers"
        ) from None
    if process.returncode:
        raise ConfigError(f"squeue failed: {process.stderr.strip()}", "try again when Slurm's controller answers")
    rows = [line.split(maxsplit=2) for line in process.stdout.splitlines()]
    return {name: row[1] for row in rows if len(row) > 1 for name in (row[0], *row[2:])}


def format_queue(
    sweep: QueuedSweep, statuses: Sequence[TrialStatus], as_json: bool, *, with_script: bool = False
) -> str:
    """Return one line for each trial: its number, swept words, status and values; or the rows of results.csv as JSON.

    `with_script` adds the batch script of the next job to the lines.
    """
    if as_json:
        return format_json([result_row(*pair) for pair in zip(sweep.trials, statuses, strict=True)], indent=1)
    trials = _add_metric_infos(sweep.trials, statuses)
    best = list_best(trials, statuses)
    width = max(len(trial.label) for trial in trials)
    lines = [f"{pluralize(len(trials), 'trial')}, a Slurm job for each: {sweep.folder}"]
    for index, (trial, status) in enumerate(zip(trials, statuses, strict=True)):
        text = status.status
        if status.is_done:
            text += f", {summarize_trial(trial, status)}{' ★' if index in best else ''}"
        elif status.reason:
            text += f": {clean_line(status.reason)}"
        elif status.step:
            text += f" at step {status.step}"
        lines.append(f"{trial.number:>4}  {trial.label:<{width}}  {text}")
    if best:
        lines.append(f"★ best val {trials[best[0]].metric}")
    waiting = [trial for trial, status in zip(trials, statuses, strict=True) if _needs_job(status)]
    if with_script and waiting:
        others = f", and {pluralize(len(waiting) - 1, 'other job')} alike" if len(waiting) > 1 else ""
        script = make_job_script(decode_light_config(waiting[0].config)[0], waiting[0].folder)
        lines.append(f"\nthe batch script of trial {waiting[0].number}{others}:\n\n{script.rstrip()}")
    return "\n".join(lines)


def get_queue_exit_code(statuses: Sequence[TrialStatus]) -> int:
    """Return 0 while a trial has yet to end, or if all are done, else the exit code of the first that is not."""
    if any(_needs_job(status) or status.is_queued for status in statuses):
        return 0
    return get_exit_code(statuses)


def _add_metric_infos(trials: Sequence[Trial], statuses: Sequence[TrialStatus]) -> list[Trial]:
    """Return the trials with the description of their metric, which the jobs that are done have written."""
    infos: dict[str, MetricInfo | None] = {}
    described = []
    for trial, status in zip(trials, statuses, strict=True):
        if status.is_done:
            key = json.dumps([trial.config["choices"].get("task"), trial.config.get("task"), trial.metric])
            if key not in infos:
                known = read_metric_infos(read_json(trial.folder / "plan.json"))
                infos[key] = next((info for info in known if info.name == trial.metric), None)
            trial = replace(trial, metric_info=infos[key])
        described.append(trial)
    return described
