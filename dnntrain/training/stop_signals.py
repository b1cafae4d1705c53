"""Ask the loop to end after its step when a signal arrives; several ranks agree on the step."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from dnntrain.errors import Stopped
from dnntrain.protocols import StepBatch
from dnntrain.training.loop import Batches
from dnntrain.training.progress import Progress
from dnntrain.utils.early_exit import SIGNALS
from dnntrain.utils.signals import signal_handlers
from dnntrain.utils.stop_request import WaitStopped, clear_stop_request, request_stop

#: Steps between two agreements of several ranks on a signal; fewer if they take longer than these
#: seconds.
_AGREE_STEPS, _AGREE_S = 8, 2.0


class SignalWatch:
    """Turn the first signal into a request to save and end.

    A second signal ends the process at once with the same exit code.
    """

    def __init__(self, progress: Progress, any_rank: Callable[[Sequence[bool]], Sequence[bool]] | None) -> None:
        self._progress = progress
        self._any_rank = any_rank
        self._agreed_step, self._agreed_s = 0, time.perf_counter()
        self._next_step = 1
        self._received_signal: int | None = None
        self._is_handed_over = False
        self._handlers = signal_handlers(self._handle_signal)

    def __enter__(self) -> SignalWatch:
        self._agreed_step, self._agreed_s = self._progress.step, time.perf_counter()
        self._next_step = self._progress.step + 1
        clear_stop_request()
        self._handlers.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._handlers.__exit__(None, None, None)
        clear_stop_request()
        if self._is_handed_over and self._received_signal is not None:
            signal.raise_signal(self._received_signal)

    def ends_run_at(self, step: int) -> bool:
        """Return whether a signal ends the run at `step`, where its state is saved and another trainer would continue.

        All ranks must call it. If not, a signal that arrives before the watch ends is raised again
        when it ends.
        """
        self.agree_on_stop(step)
        self._is_handed_over = self._progress.signal is None
        return not self._is_handed_over

    def agree_on_stop(self, step: int) -> None:
        """End all ranks between steps if one has received a signal.

        The next agreement is after 8 steps, or after 1 if steps are long.
        """
        if self._any_rank is None:
            return
        now = time.perf_counter()
        step_s = (now - self._agreed_s) / max(step - self._agreed_step, 1)
        stop, slow = self._any_rank((self._received_signal is not None, _AGREE_STEPS * step_s > _AGREE_S))
        self._agreed_step, self._agreed_s = step, now
        self._next_step = step + (1 if slow else _AGREE_STEPS)
        if stop:
            self._progress.signal = self._received_signal or int(signal.SIGTERM)

    def get_next_step(self, step: int) -> int:
        """Return the step of the next agreement, the same on all ranks; after a rollback it is at once."""
        return self._next_step if self._next_step - step <= _AGREE_STEPS else step

    def _handle_signal(self, number: int, frame: object) -> None:
        if self._received_signal is not None:
            os._exit(SIGNALS[signal.Signals(number)])
        self._received_signal = number
        request_stop(number)
        if self._any_rank is None:
            self._progress.signal = number
        # Not print: the terminal may be gone (SIGHUP), or in the middle of a line.
        with suppress(OSError):
            os.write(
                2, f"{signal.Signals(number).name}: saving at the end of this step; again to end at once\n".encode()
            )


class StoppableBatches:
    """The batches of a run in one process; a wait for them ends at a signal.

    No rank waits for this one, so its state after the last step can be saved.
    """

    def __init__(self, batches: Batches, progress: Progress) -> None:
        self._batches = batches
        self._progress = progress

    def take(self, step: int) -> StepBatch:
        """Return the batches of step `step`. Raises WaitStopped if a signal ends the wait."""
        try:
            return self._batches.take(step)
        except Stopped as error:
            if self._progress.signal is None:
                raise
            raise WaitStopped from error
