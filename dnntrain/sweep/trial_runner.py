"""Run trials, one on each part of the machine, and end them on a signal."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from dnntrain.sweep.processes import end_processes
from dnntrain.sweep.resources import Resources
from dnntrain.sweep.sweep_directory import Trial, TrialStatus, status_after_exit, update_status
from dnntrain.sweep.trial_process import TrialProcess, TrialStarter
from dnntrain.utils.files import FOLDS_FILE, remove_file
from dnntrain.utils.signals import signal_handlers

#: Seconds for trials to finish a long step and a large checkpoint after a stop signal.
_GRACE_S = 600.0
_POLL_INTERVAL_S = 0.1
_REFRESH_INTERVAL_S = 0.5


class ProgressTable:
    """The trials of a sweep and their status.

    Subclasses override the events that they show or record.
    """

    def __init__(self, trials: Sequence[Trial], statuses: Sequence[TrialStatus]) -> None:
        self.trials = list(trials)
        self.statuses = list(statuses)
        self.total = len(self.trials)

    def add_trial(self, trial: Trial, status: TrialStatus) -> None:
        """Append a trial that was not known at the start."""
        self.trials.append(trial)
        self.statuses.append(status)
        self.total = max(self.total, len(self.trials))

    def on_trial_start(self, index: int) -> None:
        """Handle the start of a trial."""

    def on_trial_end(self, index: int) -> None:
        """Handle the end of a trial."""

    def on_refresh(self) -> None:
        """Handle new steps and metrics of running trials."""

    def on_signal(self, signal_number: int) -> None:
        """Handle a signal to the sweep."""


class TrialSource:
    """Further trials of a search, and the decisions about those that run."""

    def take_next(self) -> int | None:
        """Add the next trial to the table and return its index; None if there is none."""
        return None

    def on_end(self, index: int) -> None:
        """Handle the end of a trial."""

    def list_stops(self, running: Sequence[int]) -> list[int]:
        """Return the indices of the running trials that end before their last step."""
        return []


@dataclass
class _RunningTrial:
    index: int
    resources: Resources
    process: TrialProcess


class TrialRunner:
    """Runs the trials of `progress_table` that are not done.

    `before_start` makes the folder of a trial. When no trial is left, `source` may add some. A `starter` of
    the caller stays open.
    """

    def __init__(
        self,
        progress_table: ProgressTable,
        resource_sets: Sequence[Resources],
        source: TrialSource | None = None,
        before_start: Callable[[Trial], None] = lambda trial: None,
        starter: TrialStarter | None = None,
    ) -> None:
        self._source = source or TrialSource()
        self._before_start = before_start
        self._progress_table = progress_table
        self._free_resources = list(resource_sets)
        self._waiting_trials = [
            index for index, status in enumerate(progress_table.statuses) if not (status.is_done or status.is_final)
        ]
        self._running_trials: list[_RunningTrial] = []
        self._starter = starter or TrialStarter(keep_servers=len(self._waiting_trials) > 1 or source is not None)
        self._closes_starter = starter is None
        self._signal_number: int | None = None
        self._has_notified = False
        self._kill_deadline = 0.0
        self._next_refresh = 0.0

    def run(self) -> int | None:
        """Run until no trial is left; return None, or the signal that stopped the sweep.

        The first signal is passed on to all trials, which save and stop. A second one, or ten
        minutes, kills them. They save and stop too if an error ends the sweep.
        """
        try:
            with signal_handlers(self._receive_signal):
                try:
                    self._start_trials()
                    while self._running_trials:
                        self._collect_exits()
                        self._start_trials()
                        self._handle_signal()
                        self._refresh_statuses()
                        time.sleep(_POLL_INTERVAL_S)
                except Exception:
                    self._wait_for_ends()
                    raise
        finally:
            self._kill_trials()
            if self._closes_starter:
                self._starter.close()
        return self._signal_number

    def _start_trials(self) -> None:
        while self._free_resources and self._signal_number is None:
            index = self._waiting_trials.pop(0) if self._waiting_trials else self._source.take_next()
            if index is None:
                return
            resources = self._free_resources.pop(0)
            trial = self._progress_table.trials[index]
            self._before_start(trial)
            # An earlier sweep that was killed may have left processes, which hold the lock of the
            # folder.
            end_processes(trial.folder, patience_s=(3.0, 10.0, 5.0))
            for name in ("result.json", FOLDS_FILE):
                remove_file(trial.folder / name)
            process = self._starter.start(trial, resources, make_environment(trial, resources, os.environ))
            self._running_trials.append(_RunningTrial(index, resources, process))
            # The figures of an earlier attempt do not count; the newest rows do.
            self._progress_table.statuses[index] = TrialStatus("running", self._progress_table.statuses[index].step)
            self._progress_table.on_trial_start(index)
            self._forward_signal(process)

    def _collect_exits(self) -> None:
        for running_trial in [
            running_trial for running_trial in self._running_trials if running_trial.process.poll() is not None
        ]:
            trial, exit_code = self._progress_table.trials[running_trial.index], running_trial.process.returncode
            assert exit_code is not None
            end_processes(trial.folder)
            self._running_trials.remove(running_trial)
            self._free_resources.append(running_trial.resources)
            self._progress_table.statuses[running_trial.index] = status_after_exit(trial, exit_code)
            self._source.on_end(running_trial.index)
            self._progress_table.on_trial_end(running_trial.index)

    def _refresh_statuses(self) -> None:
        if time.monotonic() < self._next_refresh:
            return
        for running_trial in self._running_trials:
            update_status(
                self._progress_table.statuses[running_trial.index], self._progress_table.trials[running_trial.index]
            )
        self._stop_trials()
        self._progress_table.on_refresh()
        self._next_refresh = time.monotonic() + _REFRESH_INTERVAL_S

    def _stop_trials(self) -> None:
        """Ask the trials that fall behind to save and end."""
        stops = self._source.list_stops([running_trial.index for running_trial in self._running_trials])
        for running_trial in self._running_trials:
            if running_trial.index in stops:
                with suppress(OSError):
                    running_trial.process.send_signal(signal.SIGTERM)

    def _handle_signal(self) -> None:
        if self._signal_number is None:
            return
        if not self._has_notified:
            self._has_notified = True
            self._progress_table.on_signal(self._signal_number)
        if time.monotonic() > self._kill_deadline:
            self._kill_trials()

    def _wait_for_ends(self) -> None:
        """Ask the trials to save and stop, and wait for their processes alone: no file is written."""
        if self._signal_number is None:
            self._receive_signal(signal.SIGTERM, None)
        processes = [running_trial.process for running_trial in self._running_trials]
        while any(process.poll() is None for process in processes) and time.monotonic() < self._kill_deadline:
            time.sleep(_POLL_INTERVAL_S)

    def _receive_signal(self, number: int, frame: object) -> None:
        if self._signal_number is not None:
            self._kill_deadline = 0.0
            return
        self._signal_number = number
        self._kill_deadline = time.monotonic() + _GRACE_S
        for running_trial in self._running_trials:
            self._forward_signal(running_trial.process)

    def _forward_signal(self, process: TrialProcess) -> None:
        """Ask a trial to stop if the sweep was asked to."""
        if self._signal_number is None:
            return
        with suppress(OSError):
            process.send_signal(signal.SIGINT if self._signal_number == signal.SIGINT else signal.SIGTERM)

    def _kill_trials(self) -> None:
        """Kill the trials that still run."""
        for running_trial in self._running_trials:
            running_trial.process.kill()
            end_processes(self._progress_table.trials[running_trial.index].folder, patience_s=(0.0, 0.0, 5.0))


def make_environment(trial: Trial, resources: Resources, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a trial: its devices, and its threads per rank."""
    threads = max(1, len(resources.cores) // trial.demand.processes)
    user_threads = environ.get("OMP_NUM_THREADS", "")
    threads = min(threads, int(user_threads)) if user_threads.isdigit() and int(user_threads) else threads
    variables = {**environ, "OMP_NUM_THREADS": str(threads), "DNNTRAIN_DISPLAY": "auto"}
    if resources.devices and trial.demand.device is None:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(resources.devices)
    return variables
