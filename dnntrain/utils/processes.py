"""Terminate child processes when their parent exits."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

#: The environment variable that names the process that started this one, and that this one must not outlast.
AGENT_VARIABLE = "DNNTRAIN_AGENT"

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


def die_with_agent() -> None:
    """Make this process end with the process that `AGENT_VARIABLE` names, if it is set.

    It is set for the ranks of `dnntrain.run.rank_agent`, and for the runs of a search.
    """
    if pid := os.environ.pop(AGENT_VARIABLE, ""):
        die_with_parent(int(pid))


def die_with_parent(parent: int | None = None, signal_number: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel to signal this process when its parent exits (prctl(2)).

    If the kernel does not support this, a thread checks every second. `parent` is the process id of
    the parent: if that process is gone already, this process gets the signal at once.
    """
    parent_pid = os.getppid() if parent is None else parent
    if not _ask_kernel(signal_number):
        threading.Thread(target=_watch_parent, args=(parent_pid, signal_number), daemon=True).start()
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal_number)


def name_process(name: str) -> None:
    """Have the kernel show this process under a name of at most 15 bytes; its command line stays."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def _ask_kernel(signal_number: signal.Signals) -> bool:
    import ctypes

    try:
        return bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0) == 0)
    except (OSError, AttributeError, TypeError):
        return False


def _watch_parent(parent: int, signal_number: signal.Signals) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal_number)
