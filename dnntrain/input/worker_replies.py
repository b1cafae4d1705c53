"""Start worker processes, wait for their replies, and translate their errors."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader

from dnntrain.errors import DataError, make_exit_error
from dnntrain.input.reader import Reply
from dnntrain.utils.explain_error import make_full_error
from dnntrain.utils.hardware import count_cores
from dnntrain.utils.processes import die_with_parent
from dnntrain.utils.stop_request import find_stop_error


def start_workers(loader: DataLoader[Reply]) -> Iterator[Reply]:
    """Start the processes of `loader`. Raises CheckpointError if /dev/shm has no room for their queues."""
    try:
        return iter(loader)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise make_full_error(str(error.strerror)) from error


def check_reply(reply: Reply) -> Reply:
    """Return `reply`. Raises the error that its reader met, if any."""
    if reply.refusal is not None:
        raise make_exit_error(*reply.refusal)
    return reply


def wait_for_reply(replies: Iterator[Reply], grace_s: float) -> Reply:
    """Return the next reply, however long it takes, unless a signal asks this process to stop."""
    while True:
        try:
            return next(replies)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader timed out"):
                raise
        if (stop_error := find_stop_error(grace_s)) is not None:
            raise stop_error


def choose_worker_count(workers: int | None, ranks: int) -> int:
    """Return `workers`, or a number by the cores of a rank if it is None.

    That is one per core except the core that the rank computes on, at least 1, at most 8.
    """
    if workers is not None:
        return workers
    return max(1, min(_MAX_WORKERS, count_cores() // max(ranks, 1) - 1))


def return_reply(reply: Any) -> Any:
    return reply


@contextmanager
def preserve_signal_handler(name: str) -> Iterator[None]:
    """Undo torch's signal handler, which reports a dead worker by an exception at an arbitrary line.

    The wait for the next batch notices the death as well.
    """
    signal_number = getattr(signal, name, None)
    previous_handler = signal.getsignal(signal_number) if signal_number is not None else None
    yield
    if signal_number is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal_number, previous_handler if previous_handler is not None else signal.SIG_DFL)


def start_worker(_: int) -> None:
    # A Ctrl-C or SIGTERM to the process group is for the training process, which needs its workers
    # to end cleanly.
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    die_with_parent()


def translate_worker_error(error: Exception) -> Exception:
    text = str(error)
    # An error that a worker raised itself begins with this word.
    is_cut_off = isinstance(error, EOFError | ConnectionError) and not text.startswith("Caught")
    if is_cut_off or "exited unexpectedly" in text or "killed by signal" in text:
        return DataError(
            f"a data worker died ({(text or type(error).__name__).splitlines()[0]})",
            "memory or /dev/shm may be full: use fewer data.num_workers, or data.num_workers=0 to see the error itself",
        )
    return error


_MAX_WORKERS = 8
