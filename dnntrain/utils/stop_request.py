"""Remember that a signal asked this process to stop, for code that waits.

The handler of the training loop only notes a signal; the loop ends after its step. Code that may
wait for long, such as for the data of the next step, asks here and ends its wait.
"""

from __future__ import annotations

import signal
import time

from dnntrain.errors import Interrupted, Preempted, Stopped

#: The signal and the time of the request, if there is one.
_requests: dict[str, float] = {}


def request_stop(number: int) -> None:
    """Ask all waits of this process to end because of the signal `number`."""
    _requests.update(signal=number, at_s=time.monotonic())


def clear_stop_request() -> None:
    """Forget the request."""
    _requests.clear()


class WaitStopped(Exception):
    """A wait for data has ended because of a signal; the state is that of the last step."""


def find_stop_error(grace_s: float) -> Stopped | None:
    """Return the error that ends a wait if a stop was requested `grace_s` seconds ago, else None."""
    if not _requests or time.monotonic() < _requests["at_s"] + grace_s:
        return None
    number = int(_requests["signal"])
    text = f"{signal.Signals(number).name}: stopped while waiting for data; earlier checkpoints are kept"
    return Interrupted(text) if number == signal.SIGINT else Preempted(text)
