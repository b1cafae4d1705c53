"""Runs trials, as many at once as there are slots, and ends all of them when the sweep is asked to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from dnntrain.sweep.processes import end_all, start
from dnntrain.sweep.resources import Slot
from dnntrain.sweep.sweep_directory import Standing, Trial, ended, refresh
from dnntrain.utils.signals import handled

#: How long trials that were asked to stop have for a long step and a large checkpoint.
_GRACE_S = 600.0
_LOOK_EVERY_S = 0.1
_REFRESH_EVERY_S = 0.5


class Board:
    """The trials of a sweep and how each stands. What shows it or writes it down overrides what it needs."""

    def __init__(self, trials: Sequence[Trial], standings: Sequence[Standing]) -> None:
        self.trials = tuple(trials)
        self.standings = list(standings)

    def begun(self, index: int) -> None:
        """A trial was started."""

    def over(self, index: int) -> None:
        """A trial has ended."""

    def refreshed(self) -> None:
        """Steps and metrics of running trials were read."""

    def asked_to_stop(self, number: int) -> None:
        """The sweep has got a signal."""


@dataclass
class _Running:
    index: int
    slot: Slot
    process: subprocess.Popen[bytes]


class Pool:
    """Runs the trials of `board` that are not done. `command` makes the command of a trial in a slot."""

    def __init__(self, board: Board, slots: Sequence[Slot], command: Callable[[Trial, Slot], list[str]]) -> None:
        self._board = board
        self._free = list(slots)
        self._command = command
        self._waiting = [index for index, found in enumerate(board.standings) if not found.done]
        self._running: list[_Running] = []
        self._signal: int | None = None
        self._told = False
        self._until = 0.0
        self._refresh_at = 0.0

    def run(self) -> int | None:
        """Returns when no trial runs any more: None, or the number of the signal that asked the sweep to stop.

        The first signal is passed on to all trials, which save and end; a second one, or ten minutes, kills them.
        """
        try:
            with handled(self._receive):
                while self._running or (self._waiting and self._signal is None):
                    self._fill()
                    self._reap()
                    self._heed_signal()
                    self._refresh()
                    time.sleep(_LOOK_EVERY_S)
        finally:
            self._kill()
        return self._signal

    def _fill(self) -> None:
        while self._free and self._waiting and self._signal is None:
            index, slot = self._waiting.pop(0), self._free.pop(0)
            trial = self._board.trials[index]
            # An earlier sweep that was killed may have left processes, which hold the lock of the folder.
            end_all(trial.folder, patience_s=(3.0, 10.0, 5.0))
            (trial.folder / "result.json").unlink(missing_ok=True)
            process = start(self._command(trial, slot), environment(trial, slot, os.environ), trial.folder)
            self._running.append(_Running(index, slot, process))
            self._board.standings[index].status = "running"
            self._board.begun(index)
            self._pass_on(process)

    def _reap(self) -> None:
        for item in [item for item in self._running if item.process.poll() is not None]:
            trial = self._board.trials[item.index]
            end_all(trial.folder)
            self._running.remove(item)
            self._free.append(item.slot)
            self._board.standings[item.index] = ended(trial, item.process.returncode)
            self._board.over(item.index)

    def _refresh(self) -> None:
        if time.monotonic() < self._refresh_at:
            return
        for item in self._running:
            refresh(self._board.standings[item.index], self._board.trials[item.index])
        self._board.refreshed()
        self._refresh_at = time.monotonic() + _REFRESH_EVERY_S

    def _heed_signal(self) -> None:
        if self._signal is None:
            return
        if not self._told:
            self._told = True
            self._board.asked_to_stop(self._signal)
        if time.monotonic() > self._until:
            self._kill()

    def _receive(self, number: int, frame: object) -> None:
        if self._signal is not None:
            self._until = 0.0
            return
        self._signal = number
        self._until = time.monotonic() + _GRACE_S
        for item in self._running:
            self._pass_on(item.process)

    def _pass_on(self, process: subprocess.Popen[bytes]) -> None:
        """Asks a trial to stop where the sweep was asked to."""
        if self._signal is None:
            return
        with suppress(OSError):
            process.send_signal(signal.SIGINT if self._signal == signal.SIGINT else signal.SIGTERM)

    def _kill(self) -> None:
        """Ends what still runs, at once."""
        for item in self._running:
            item.process.kill()
            end_all(self._board.trials[item.index].folder, patience_s=(0.0, 0.0, 5.0))


def environment(trial: Trial, slot: Slot, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a trial: its devices, and as many threads a rank as its slot has cores for."""
    threads = max(1, len(slot.cores) // trial.need.processes)
    asked = environ.get("OMP_NUM_THREADS", "")
    threads = min(threads, int(asked)) if asked.isdigit() and int(asked) else threads
    made = {**environ, "OMP_NUM_THREADS": str(threads), "DNNTRAIN_DISPLAY": "auto"}
    if slot.devices and trial.need.device is None:
        made["CUDA_VISIBLE_DEVICES"] = ",".join(slot.devices)
    return made


def trial_command(trial: Trial, slot: Slot) -> list[str]:
    """The command of a trial's process: it trains the frozen configuration on the cores of its slot."""
    cores = ",".join(map(str, slot.cores))
    return [sys.executable, "-m", "dnntrain.sweep.worker", str(trial.folder), str(os.getpid()), cores]
