"""Mark the phases of a step: for a clock, or for a trace.

The parts of a trainer that compute without the loop's knowledge (executor, input pipeline) mark their
own phases. Marks nest: time belongs to the innermost one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from dnntrain.protocols import Hooks, PhaseMarker, StepBatch
from dnntrain.training.cadence import Cadence
from dnntrain.training.loop import Batches, Loop

if TYPE_CHECKING:
    from dnntrain.training.trainer import Trainer

#: The phases of a step in their order. Methods add `callbacks/NAME`.
DATA, HOST_TO_DEVICE, AUGMENTATION, TEACHER = "data wait", "host to device", "augmentation", "teacher"
FORWARD, BACKWARD, PASSES, OPTIMIZER = "forward", "backward", "forward and backward", "optimizer"
CALLBACKS, EVENTS = "callbacks", "rows and events"
#: The part of the backward pass that waits for other ranks. No mark has it: it is a difference of two measurements.
COMMUNICATION = "communication"
PHASES = (
    DATA,
    HOST_TO_DEVICE,
    AUGMENTATION,
    TEACHER,
    FORWARD,
    BACKWARD,
    PASSES,
    COMMUNICATION,
    OPTIMIZER,
    CALLBACKS,
    EVENTS,
)

Function = TypeVar("Function", bound=Callable[..., Any])


def mark_trainer(trainer: Trainer, mark: PhaseMarker) -> Loop:
    """Return the loop of a trainer whose phases run within `mark(name)`."""
    loop = trainer.loop
    loop.executor.mark_phases(mark)
    trainer.pipeline.mark_phases(mark)
    return replace(
        loop,
        batches=_MarkedBatches(loop.batches, mark),
        update=_mark(loop.update, mark, OPTIMIZER),
        cadence=_MarkedCadence(loop.cadence, mark),
    )


def mark_hooks(name: str, hooks: Hooks, mark: PhaseMarker) -> Hooks:
    """Return the hooks of the method `name`, each of which runs within `mark("callbacks/NAME")`."""
    phase = f"{CALLBACKS}/{name}"
    return replace(
        hooks,
        gradient_transforms=tuple(
            replace(item, apply=_mark(item.apply, mark, phase)) for item in hooks.gradient_transforms
        ),
        after_step_hooks=tuple(_mark(hook, mark, phase) for hook in hooks.after_step_hooks),
        metric_callbacks=tuple(_mark(callback, mark, phase) for callback in hooks.metric_callbacks),
    )


def _mark(function: Function, mark: PhaseMarker, name: str) -> Function:
    def run_marked(*args: Any, **kwargs: Any) -> Any:
        with mark(name):
            return function(*args, **kwargs)

    return run_marked  # type: ignore[return-value]


@dataclass(frozen=True)
class _MarkedBatches:
    inner: Batches
    mark: PhaseMarker

    def take(self, step: int) -> StepBatch:
        with self.mark(DATA):
            return self.inner.take(step)


class _MarkedCadence(Cadence):
    """Passes on the events of another cadence, marked."""

    def __init__(self, inner: Cadence, mark: PhaseMarker) -> None:
        self._inner = inner
        self._mark = mark

    def get_due(self, step: int) -> Sequence[Callable[[int], None]]:
        return [_mark(event, self._mark, EVENTS) for event in self._inner.get_due(step)]

    def rewind(self) -> None:
        self._inner.rewind()
