"""Handle the signals that end a run, and restore the previous handlers."""

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
    """End the run with the exit code of a signal.

    For use before and after the steps, when there is no new state to save.
    """

    def raise_exit(number: int, frame: object) -> None:
        text = f"{signal.Signals(number).name}: stopped; earlier checkpoints are kept"
        raise Interrupted(text, hint) if number == signal.SIGINT else Preempted(text, hint)

    with signal_handlers(raise_exit):
        yield


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Keep SIGNALS pending within the context, here and in the processes that it starts.

    A process that is started so must call `unblock_signals` once it can handle them.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def unblock_signals() -> None:
    """Deliver the SIGNALS that `blocked_signals` of the parent process kept pending."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def signal_handlers(receive: Callable[[int, object], None]) -> Iterator[None]:
    """Handle all SIGNALS with `receive`.

    Outside of the main thread, which alone may set handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, receive) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
