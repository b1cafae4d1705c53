"""The training loop. It knows protocols only.

An unused feature is an empty tuple, decided when the trainer was built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from dnntrain.protocols import AfterStepHook, OptimizerStep, StepBatch, StepExecutor, StepInfo, StepLoss
from dnntrain.training.cadence import Cadence
from dnntrain.training.progress import Progress


class Batches(Protocol):
    """The micro-batches of each step, by its number."""

    def take(self, step: int) -> StepBatch: ...


class Recorder(Protocol):
    """Record each step's loss, on the device."""

    def record(self, loss: StepLoss) -> None: ...


@dataclass(frozen=True)
class Loop:
    """Everything that a step needs, bound to model and optimizer."""

    progress: Progress
    batches: Batches
    setters: Sequence[Callable[[StepInfo], None]]
    executor: StepExecutor
    update: OptimizerStep
    apply: Callable[[], None]
    after_step: Sequence[AfterStepHook]
    metrics: Recorder
    cadence: Cadence


def run_loop(loop: Loop) -> None:
    """Train until the run is finished; return after the last step's events."""
    for _ in iterate_steps(loop):
        pass


def iterate_steps(loop: Loop) -> Iterator[int]:
    """Train step by step; yield the number of steps done after each step's events."""
    progress, batches, executor, metrics = loop.progress, loop.batches, loop.executor, loop.metrics
    setters, after_step, update, apply, get_due = (
        loop.setters,
        loop.after_step,
        loop.update,
        loop.apply,
        loop.cadence.get_due,
    )
    for step in progress.steps():
        batch = batches.take(step)
        step_info = progress.get_step_info(step)
        for set_value in setters:
            set_value(step_info)
        loss = update(partial(executor.compute_gradients, batch), apply)
        for hook in after_step:
            hook(step_info)
        metrics.record(loss)
        steps_done = progress.mark_done(step)
        for event in get_due(steps_done):
            event(steps_done)
        yield steps_done
