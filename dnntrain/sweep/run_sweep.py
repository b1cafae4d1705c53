"""Run the trials of a prepared sweep, each on its part of the machine.

The same command again skips finished trials and resumes interrupted ones.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

from dnntrain.errors import Interrupted, Preempted, Stopped
from dnntrain.run.directory import lock_folder
from dnntrain.sweep.prepare import Sweep, list_cores
from dnntrain.sweep.progress_table import make_progress_table
from dnntrain.sweep.sweep_directory import RESULTS_FILE, TrialStatus, freeze_trial, read_status, result_row
from dnntrain.sweep.trial_list import write_list
from dnntrain.sweep.trial_runner import TrialRunner
from dnntrain.utils.json_files import format_json
from dnntrain.utils.units import pluralize


def run_sweep(sweep: Sweep, config_dir: Path | None, display: str) -> Sequence[TrialStatus]:
    """Run the trials that are not done, and return the status of each.

    Raises Stopped if a signal ended the sweep.
    """
    with lock_folder(sweep.folder):
        return _run_trials(sweep, config_dir, display)


def _run_trials(sweep: Sweep, config_dir: Path | None, display: str) -> Sequence[TrialStatus]:
    statuses = [read_status(trial) for trial in sweep.trials]
    write_list(sweep.folder, sweep.trials)
    progress_table = make_progress_table(display, sweep.folder, sweep.trials, statuses)
    progress_table.open()
    try:
        signal_number = TrialRunner(
            progress_table,
            sweep.resource_sets,
            before_start=lambda trial: freeze_trial(trial, config_dir),
        ).run()
    finally:
        progress_table.close()
    if signal_number is not None:
        num_done = sum(status.is_done for status in progress_table.statuses)
        raise make_stop_error(
            signal_number, f"the sweep was stopped with {num_done} of {pluralize(len(sweep.trials), 'trial')} done"
        )
    return progress_table.statuses


def make_stop_error(signal_number: int, text: str) -> Stopped:
    """Return the error for trials that `signal_number` ended."""
    error_class = Interrupted if signal_number == signal.SIGINT else Preempted
    return error_class(f"{signal.Signals(signal_number).name}: {text}", "run the same command again to resume it")


def format_results(sweep: Sweep, statuses: Sequence[TrialStatus], as_json: bool) -> str:
    """Return the path of the table of results, or its rows as JSON."""
    if as_json:
        return format_json([result_row(*pair) for pair in zip(sweep.trials, statuses, strict=True)], indent=1)
    return str(sweep.folder / RESULTS_FILE)


def format_listing(sweep: Sweep, as_json: bool) -> str:
    """Return the text of --dry-run: the trials, their status, how many run at once."""
    statuses = [read_status(trial) for trial in sweep.trials]
    if as_json:
        rows = [{**result_row(*pair), "words": pair[0].words} for pair in zip(sweep.trials, statuses, strict=True)]
        return format_json({"folder": str(sweep.folder), "at_once": len(sweep.resource_sets), "trials": rows}, indent=1)
    resources = sweep.resource_sets[0]
    cores = pluralize(len(list_cores()), "core")
    share = f"devices {','.join(resources.devices)}" if resources.devices else f"{len(resources.cores)} of {cores}"
    lines = [
        f"{pluralize(len(sweep.trials), 'trial')}, {len(sweep.resource_sets)} at once, each on {share}: {sweep.folder}"
    ]
    width = max(len(trial.label) for trial in sweep.trials)
    for trial, status in zip(sweep.trials, statuses, strict=True):
        processes = f"{trial.demand.processes} process{'es' if trial.demand.processes > 1 else ''}"
        steps = f" at step {status.step}" if status.status == "broken off" else ""
        lines.append(f"{trial.number:>4}  {trial.label:<{width}}  {processes}  {status.status}{steps}")
    return "\n".join(lines)
