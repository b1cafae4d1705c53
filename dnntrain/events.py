"""What happens between steps, at the cadence of the configuration: evaluation, saving, agreement on signals."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import nn

from dnntrain.checkpoint import state as checkpoint
from dnntrain.checkpoint.ranks import Ranks
from dnntrain.errors import CheckpointError, Interrupted, Preempted
from dnntrain.metrics import Metrics, Timer
from dnntrain.progress import Progress
from dnntrain.protocols import Stateful, View

#: Signals that ask a run to save and end, and the exit code of each.
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGHUP: 75, signal.SIGUSR1: 75, signal.SIGUSR2: 75}


#: Steps between two agreements of several ranks on whether a signal has come; fewer where they take longer than so many seconds.
_AGREE_STEPS, _AGREE_S = 8, 2.0


class Saver:
    """Saves checkpoints of all `states`. Called on every rank, for states may be gathered from all; only one has a `folder`.

    `until` gives steps: the last checkpoint of each, or from before, is kept besides the `keep` newest.
    """

    def __init__(
        self,
        folder: Path | None,
        states: Mapping[str, Stateful],
        digests: checkpoint.Digests,
        *,
        keep: int,
        timer: Timer,
        warn: Callable[[str], None] | None,
        ranks: Ranks | None = None,
        until: Callable[[], Iterable[int]] = tuple,
    ) -> None:
        self._until = until
        self._folder = folder
        self._ranks = ranks or Ranks()
        self._states = states
        self._digests = digests
        self._keep = keep
        self._timer = timer
        self._warn = warn
        self._asked_step = self._saved_step = -1

    def __call__(self, step: int) -> None:
        """Saves the state after `step` steps, unless that is done.

        Raises CheckpointError where it cannot be written, or warns where the configuration says so.
        """
        if step == self._asked_step:
            return
        self._asked_step = step
        with self._timer:
            try:
                checkpoint.save(self._folder, step, self._states, self._digests, self._ranks)
            except OSError as error:
                if self._warn is None:
                    raise CheckpointError(
                        f"the checkpoint of step {step} cannot be saved: {error}",
                        "make room or set another run_dir; checkpoint.on_error=warn trains on without it",
                    ) from error
                self._warn(f"checkpoint of step {step} was not saved: {error}; training goes on")
                return
            self._saved_step = step
            if self._folder is not None:
                checkpoint.prune(self._folder, self._keep, self._until())

    def back_to(self, step: int) -> None:
        """The run goes on from the checkpoint of `step`: later ones are of a way that is left, and may be saved again.

        All ranks must call it. Raises CheckpointError where they have read checkpoints of different steps.
        """
        # None is removed before all have read theirs.
        steps = self._ranks.exchange(step)
        if len(set(steps)) > 1:
            raise CheckpointError(
                f"the ranks went back to different steps: {', '.join(map(str, steps))}",
                "put run_dir on a file system that all nodes share",
            )
        self._asked_step = self._saved_step = -1
        if self._folder is not None:
            checkpoint.cut_back(self._folder, step)

    def best(self, step: int) -> None:
        """Saves, and points BEST to it."""
        self(step)
        if self._saved_step == step:
            self.point_best(step)

    def point_best(self, step: int) -> None:
        """Points BEST to the checkpoint of `step`, where there is one."""
        if self._folder is not None and (self._folder / f"step-{step}").is_dir():
            checkpoint.mark_best(self._folder, step)


class Evaluator:
    """Evaluates the validation part, remembers the best value, and has the best state saved."""

    def __init__(
        self,
        evaluate: Callable[[], Mapping[str, float | int]],
        metrics: Metrics,
        saver: Saver,
        timer: Timer,
        metric: str,
    ) -> None:
        self._evaluate = evaluate
        self._metrics = metrics
        self._saver = saver
        self._timer = timer
        self._metric = metric
        self._sign = 1.0 if metric == "accuracy" else -1.0
        self._evaluated_step = -1
        self.best: float | None = None
        self.best_step = 0

    def __call__(self, step: int) -> None:
        if step == self._evaluated_step:
            return
        with self._timer:
            values = self._evaluate()
            self._evaluated_step = step
            value = float(values[self._metric])
            # Of equally good states the later one is kept: the schedule has settled further.
            improved = math.isfinite(value) and (self.best is None or self._sign * value >= self._sign * self.best)
            if improved:
                self.best, self.best_step = value, step
            self._metrics.write("val", step, {name: item for name, item in values.items() if name != "examples"})
            if improved:
                self._saver.best(step)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "evaluated_step": self._evaluated_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_step = state["best"], int(state["best_step"])
        self._evaluated_step = int(state["evaluated_step"])
        # A kill between the best checkpoint and its pointer, or a return to an earlier one, has left another there.
        if self.best is not None:
            self._saver.point_best(self.best_step)

    def back_among(self, checkpoints: Path) -> None:
        """After a return to an earlier step: where the best state of then is no longer kept, the next one is the best."""
        if not (checkpoints / f"step-{self.best_step}").is_dir():
            self.best, self.best_step = None, 0


@contextmanager
def applied(views: Sequence[View], model: nn.Module) -> Iterator[None]:
    """The model with the weights that are evaluated and exported in place."""
    with ExitStack() as stack:
        for view in views:
            stack.enter_context(view.applied(model))
        yield


@contextmanager
def ended_by_signals(hint: str) -> Iterator[None]:
    """Before and after the steps, where there is nothing new to save: a signal ends the run there, with its exit code."""

    def end(number: int, frame: object) -> None:
        text = f"{signal.Signals(number).name}: stopped; what was saved before is kept"
        raise Interrupted(text, hint) if number == signal.SIGINT else Preempted(text, hint)

    with handled(end):
        yield


@contextmanager
def handled(receive: Callable[[int, object], None]) -> Iterator[None]:
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


class SignalWatch:
    """Turns the first signal into a request to save and end; a second one ends at once with the same exit code."""

    def __init__(self, progress: Progress, any_rank: Callable[[Sequence[bool]], Sequence[bool]] | None) -> None:
        self._progress = progress
        self._any_rank = any_rank
        self._agreed_step, self._agreed_s = 0, time.perf_counter()
        self._next_step = 1
        self._received: int | None = None
        self._handled = handled(self._receive)

    def __enter__(self) -> SignalWatch:
        self._agreed_step, self._agreed_s = self._progress.step, time.perf_counter()
        self._next_step = self._progress.step + 1
        self._handled.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._handled.__exit__(None, None, None)

    def agree(self, step: int) -> None:
        """Between steps, on several ranks: all of them end where one has been asked to. Next after 8 steps, or 1 where those are long."""
        if self._any_rank is None:
            return
        now = time.perf_counter()
        step_s = (now - self._agreed_s) / max(step - self._agreed_step, 1)
        stop, slow = self._any_rank((self._received is not None, _AGREE_STEPS * step_s > _AGREE_S))
        self._agreed_step, self._agreed_s = step, now
        self._next_step = step + (1 if slow else _AGREE_STEPS)
        if stop:
            self._progress.signal = self._received or int(signal.SIGTERM)

    def next_step(self, step: int) -> int:
        """The step at which to agree next: the same on all ranks. After a return to an earlier step that is at once."""
        return self._next_step if self._next_step - step <= _AGREE_STEPS else step

    def _receive(self, number: int, frame: object) -> None:
        if self._received is not None:
            os._exit(SIGNALS[signal.Signals(number)])
        self._received = number
        if self._any_rank is None:
            self._progress.signal = number
        # Not print: the terminal may be gone (SIGHUP), or in the middle of a line of ours.
        with suppress(OSError):
            os.write(
                2, f"{signal.Signals(number).name}: saving at the end of this step; again to end at once\n".encode()
            )
