"""No process outlives the one that started it, however that one ended."""

from __future__ import annotations

import os
import signal
import threading
import time

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None, number: signal.Signals = signal.SIGKILL) -> None:
    """Asks the kernel to send `number` to this process once its parent is gone (prctl(2)); where it cannot, looks every second.

    `parent` is the process number that the parent had: where it is gone already, this process gets the signal at once.
    """
    expected = os.getppid() if parent is None else parent
    if not _ask_kernel(number):
        threading.Thread(target=_look, args=(expected, number), daemon=True).start()
    if os.getppid() != expected:
        os.kill(os.getpid(), number)


def _ask_kernel(number: signal.Signals) -> bool:
    import ctypes

    try:
        return bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) == 0)
    except (OSError, AttributeError, TypeError):
        return False


def _look(parent: int, number: signal.Signals) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), number)
