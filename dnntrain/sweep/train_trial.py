"""Train a single trial in its own process, unless it is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dnntrain.errors import make_exit_error
from dnntrain.sweep.prepare import list_cores, list_devices
from dnntrain.sweep.resources import divide_machine
from dnntrain.sweep.run_sweep import make_stop_error
from dnntrain.sweep.sweep_directory import Trial, TrialStatus, freeze_trial, read_status
from dnntrain.sweep.trial_process import TrialStarter
from dnntrain.sweep.trial_runner import ProgressTable, TrialRunner


class _TrialView(ProgressTable):
    """Passes the status of a single trial on."""

    def __init__(self, trial: Trial, status: TrialStatus, show: Callable[[TrialStatus], None]) -> None:
        super().__init__([trial], [status])
        self._show = show

    def on_refresh(self) -> None:
        self._show(self.statuses[0])


def train_trial(
    trial: Trial,
    config_dir: Path | None,
    show: Callable[[TrialStatus], None],
    owner: str,
    starter: TrialStarter | None = None,
) -> None:
    """Train a trial on the whole machine, or resume it; `show` receives its status.

    `owner` names what the trial belongs to, for messages. `starter` may keep processes for further
    trials. Raises the trial's error, or Stopped if a signal ended it.
    """
    from dnntrain.utils.hardware import probe_hardware

    status = read_status(trial)
    if status.is_done:
        return
    freeze_trial(trial, config_dir)
    hardware = probe_hardware(trial.config["device"])
    devices = list_devices(hardware) if trial.demand.devices else ()
    resources = divide_machine([trial.demand], devices, list_cores(), hardware.memory_bytes)
    view = _TrialView(trial, status, show)
    if (signal_number := TrialRunner(view, resources, starter=starter).run()) is not None:
        raise make_stop_error(signal_number, f"stopped while {trial.folder} was training")
    status = view.statuses[0]
    if not status.is_done:
        raise make_exit_error(
            status.exit_code if status.exit_code and status.exit_code > 0 else 1,
            f"{trial.folder.name} of the {owner} did not finish: {status.status}. {status.reason}".rstrip(),
            f"its output: {trial.folder / 'output.txt'}",
        )
