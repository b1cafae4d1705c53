"""The training loop. It knows protocols only: what is not asked for is an empty tuple, decided when the trainer was built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from dnntrain.protocols import AfterStep, Executor, Moment, StepBatch, StepLoss, Update
from dnntrain.training.cadence import Cadence
from dnntrain.training.progress import Progress


class Batches(Protocol):
    """The micro-batches of each step, by its number."""

    def take(self, step: int) -> StepBatch: ...


class Recorder(Protocol):
    """Keeps each step's loss, on the device."""

    def record(self, loss: StepLoss) -> None: ...


@dataclass(frozen=True)
class Loop:
    """Everything that a step needs, bound to model and optimizer."""

    progress: Progress
    batches: Batches
    controls: Sequence[Callable[[Moment], None]]
    executor: Executor
    update: Update
    apply: Callable[[], None]
    after_step: Sequence[AfterStep]
    metrics: Recorder
    cadence: Cadence


def run(loop: Loop) -> None:
    """Trains until the run is finished; returns with the last step's events done."""
    progress, batches, executor, metrics = loop.progress, loop.batches, loop.executor, loop.metrics
    controls, after_step, update, apply, due = loop.controls, loop.after_step, loop.update, loop.apply, loop.cadence.due
    for step in progress.steps():
        batch = batches.take(step)
        moment = progress.at(step)
        for control in controls:
            control(moment)
        loss = update(partial(executor.gradients, batch), apply)
        for hook in after_step:
            hook(moment)
        metrics.record(loss)
        done = progress.done(step)
        for event in due(done):
            event(done)
