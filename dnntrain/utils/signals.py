"""The signals that end a run, their exit codes, and handlers that are restored afterwards."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dnntrain.errors import Interrupted, Preempted

#: Signals that ask a run to save and end, and the exit code of each.
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGHUP: 75, signal.SIGUSR1: 75, signal.SIGUSR2: 75}


@contextmanager
def exit_on_signals(hint: str) -> Iterator[None]:
    """Before and after the steps, where there is nothing new to save: a signal ends the run there, with its exit code."""

    def raise_exit(number: int, frame: object) -> None:
        text = f"{signal.Signals(number).name}: stopped; earlier checkpoints are kept"
        raise Interrupted(text, hint) if number == signal.SIGINT else Preempted(text, hint)

    with signal_handlers(raise_exit):
        yield


@contextmanager
def signal_handlers(receive: Callable[[int, object], None]) -> Iterator[None]:
    """`receive` as the handler of all SIGNALS; in another than the main thread, which may set none, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, receive) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
