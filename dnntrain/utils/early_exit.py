"""End a command at a signal before anything else is imported. It imports nothing that takes time."""

from __future__ import annotations

import os
import signal

#: Signals that ask a run to save and end, and the exit code of each.
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGHUP: 75, signal.SIGUSR1: 75, signal.SIGUSR2: 75}


def exit_at_once_on_signals() -> None:
    """End the process at a signal, with a message and its exit code: nothing is open yet."""
    for number in SIGNALS:
        signal.signal(number, _end_process)


def _end_process(number: int, frame: object) -> None:
    try:  # noqa: SIM105 (contextlib takes time to import)
        os.write(2, f"dnntrain: {signal.Signals(number).name}: stopped before it began\n".encode())
    except OSError:
        pass
    os._exit(SIGNALS[signal.Signals(number)])


def ignore_signals_until_exit() -> None:
    """Let the process end with its own exit code: its work is done, and Python's shutdown takes a while."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
