"""Handle the signals that end a run, and restore the previous handlers."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from dnntrain.errors import Interrupted, Preempted, Stopped
from dnntrain.utils.early_exit import SIGNALS

#: Seconds after which a signal that came during an import is handled.
_IMPORT_WAIT_S = 0.02

Handler = Callable[[int, FrameType | None], None]

#: The process has nothing left to save: signals have no effect until the outermost `signal_handlers` ends.
_is_ignoring = False
_depth = 0


class SignalReceived(KeyboardInterrupt):
    """A signal asked the process to end. It is not an Exception, so that no library swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def status(self) -> str:
        """The status of a run that this signal ends."""
        return self.to_stopped("", "").status

    def to_stopped(self, text: str, hint: str) -> Stopped:
        """Return the error that ends the run: `text` names the saved state, `hint` how to continue."""
        kind = Interrupted if self.number == signal.SIGINT else Preempted
        return kind(f"{signal.Signals(self.number).name}: {text}", hint)


def ignore_signals() -> None:
    """Ignore signals from here to the end of the outermost `signal_handlers`: everything is written."""
    global _is_ignoring
    _is_ignoring = _depth > 0


@contextmanager
def exit_on_signals(text: str, hint: str) -> Iterator[None]:
    """End the block at a signal: Interrupted after SIGINT, else Preempted, with `text` and `hint`.

    For use before and after the steps, when there is no new state to save.
    """
    with raise_on_signals():
        try:
            yield
        except SignalReceived as received:
            raise received.to_stopped(text, hint) from None


@contextmanager
def raise_on_signals(is_ending: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Raise SignalReceived in the block at the first signal, unless the block `is_ending` already.

    Others have no effect: a terminal and a launcher may both send one.
    """
    has_received = False

    def raise_signal(number: int, frame: FrameType | None) -> None:
        nonlocal has_received
        if not has_received and not is_ending():
            has_received = True
            raise SignalReceived(number)

    with signal_handlers(_wait_for_imports(raise_signal)):
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


def is_blocking_signals(pid: int) -> bool:
    """Return whether a process keeps SIGTERM pending, by /proc/PID/status; False if that is unknown."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    mask = next((int(line.split()[1], 16) for line in lines if line.startswith("SigBlk:")), 0)
    return bool(mask >> (signal.SIGTERM - 1) & 1)


@contextmanager
def signal_handlers(receive: Handler) -> Iterator[None]:
    """Handle all SIGNALS with `receive`.

    Outside of the main thread, which alone may set handlers, nothing changes.
    """
    global _depth, _is_ignoring
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if not _is_ignoring:
            receive(number, frame)

    previous = {number: signal.signal(number, handle) for number in SIGNALS}
    _depth += 1
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _depth -= 1
        if _depth == 0:
            _is_ignoring = False


@contextmanager
def delay_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block, which imports: half of torch cannot be imported again."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    received_signals: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: received_signals.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if received_signals:
        raise KeyboardInterrupt


def _wait_for_imports(receive: Handler) -> Handler:
    """Return `receive`, called after the imports that a signal comes in.

    An exception inside an import becomes another one there, or leaves half of a module. Imports
    that are under way here, such as that of a script which trains, do not count.
    """
    num_outer_imports = _count_imports(sys._getframe())

    def handle(number: int, frame: FrameType | None) -> None:
        if _count_imports(frame) > num_outer_imports:
            _thread.start_new_thread(_send_again, (number,))
        else:
            receive(number, frame)

    return handle


def _count_imports(frame: FrameType | None) -> int:
    """Return how many frames of the import system are on the stack."""
    count = 0
    while frame is not None:
        count += frame.f_code.co_filename == "<frozen importlib._bootstrap>"
        frame = frame.f_back
    return count


def _send_again(number: int) -> None:
    time.sleep(_IMPORT_WAIT_S)
    os.kill(os.getpid(), number)
