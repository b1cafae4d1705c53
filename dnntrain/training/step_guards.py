"""Asks the guards (`monitor=`) about each step before it is applied, on all ranks alike, and does what they ask for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from dnntrain.errors import DivergedError
from dnntrain.protocols import (
    Action,
    Alarm,
    Clock,
    Collectives,
    Control,
    Gradients,
    Guard,
    Moment,
    Parts,
    Seen,
    StepBatch,
    StepLoss,
    Target,
    Update,
)
from dnntrain.utils.units import counted

_HINT = "lower optim.lr, add a warm-up (sched.warmup=5%) or train.clip_norm=1.0"


class Batches(Protocol):
    """The micro-batches of each step, by its number."""

    def take(self, step: int) -> StepBatch: ...


class Carried(Protocol):
    """What a step hands on to the next one besides weights, optimizers and buffers; `remember()` gives what puts it back as it is now."""

    def remember(self) -> Callable[[], None]: ...


class RolledBack(Exception):
    """Step number `step`, from 1, is not to be applied: the run is to go on from its last checkpoint."""

    def __init__(self, step: int, alarm: Alarm) -> None:
        super().__init__(alarm.reason)
        self.step = step
        self.alarm = alarm


class Recovery:
    """What the reactions have changed for the rest of the run: it is saved, and is not undone by a rollback.

    `factor` is what rollbacks have left of the learning rate; the steps `dropped` are not trained (their numbers, from 1); `told` are
    the rows of the rollbacks, with the step that each led to.
    """

    def __init__(self) -> None:
        self.factor = 1.0
        self.rollbacks = 0
        self.dropped: dict[int, str] = {}
        self.told: list[tuple[int, Mapping[str, Any]]] = []
        self._skips_in_a_row = 0
        self._logged: dict[str, int] = {}

    def learning_rate(self, moment: Moment) -> float:
        """The control."""
        return self.factor

    def is_new(self, alarm: Alarm, step: int) -> bool:
        """False where the same was found in the step before: a condition that lasts is told once."""
        last = self._logged.get(alarm.event)
        self._logged[alarm.event] = step
        return last != step - 1

    def applied(self) -> None:
        """A step is applied."""
        self._skips_in_a_row = 0

    def skipped(self, alarm: Alarm) -> None:
        """A step is skipped. Raises DivergedError where too many in a row are."""
        self._skips_in_a_row += 1
        if self._skips_in_a_row > alarm.recoveries:
            raise DivergedError(f"{alarm.reason}, after {counted(alarm.recoveries, 'skipped step')} in a row", _HINT)

    def rolled_back(self, step: int, alarm: Alarm) -> None:
        """The run goes back because of step number `step`. Raises DivergedError where it has done so too often."""
        if self.rollbacks >= alarm.recoveries:
            raise DivergedError(f"{alarm.reason}, after {counted(alarm.recoveries, 'rollback')}", _HINT)
        self.rollbacks += 1
        self.factor *= alarm.cut
        if alarm.good_until is None:
            self.dropped[step] = alarm.event
        self._skips_in_a_row = 0

    def tell(self, step: int, row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The rows to be written for a rollback that led to `step`: `row`, after those of earlier ones that were cut off with the rest."""
        self.told = [(min(step, led_to), told) for led_to, told in self.told] + [(step, row)]
        return [told for led_to, told in self.told if led_to == step]

    def state_dict(self) -> dict[str, Any]:
        return {
            "factor": self.factor,
            "rollbacks": self.rollbacks,
            "dropped": {str(step): event for step, event in self.dropped.items()},
            "skips_in_a_row": self._skips_in_a_row,
            "logged": dict(self._logged),
            "told": {str(number): {"step": step, "row": dict(row)} for number, (step, row) in enumerate(self.told)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.factor, self.rollbacks = float(state["factor"]), int(state["rollbacks"])
        self.dropped = {int(step): str(event) for step, event in state["dropped"].items()}
        self._skips_in_a_row = int(state["skips_in_a_row"])
        self._logged = {str(event): int(step) for event, step in state["logged"].items()}
        told = [state["told"][str(number)] for number in range(len(state["told"]))]
        self.told = [(int(item["step"]), item["row"]) for item in told]


class Guarding:
    """Stands around the update and the batches of a run that has guards.

    `write(step, values)` writes a row of split "event"; `reduce` sums a tensor over all ranks in place; `step` gives the steps that are
    done. What an alarm decides on is the same on all ranks, for it is summed over all of them in one transfer.
    """

    def __init__(
        self,
        guards: Sequence[Guard],
        recovery: Recovery,
        *,
        step: Callable[[], int],
        write: Callable[[int, Mapping[str, Any]], None],
        reduce: Callable[[Tensor], Tensor],
        collect: Collectives,
        optimizers: Sequence[torch.optim.Optimizer],
        buffers: Iterable[Tensor],
        device: str,
        scaled: bool,
        carried: Iterable[Carried] = (),
    ) -> None:
        self._guards = guards
        self.recovery = recovery
        self._step = step
        self._write = write
        self._reduce = reduce
        self._collect = collect
        self._optimizers = optimizers
        self._device = device
        self._scaled = scaled
        self._sees_gradients = scaled or any(guard.sees_gradients for guard in guards)
        self.rolls_back = any(guard.action is Action.ROLLBACK for guard in guards)
        skips = any(guard.action is Action.SKIP for guard in guards)
        # A batch that is not to count has already moved the running statistics of batch normalisation.
        self._buffers = [(buffer, buffer.clone()) for buffer in buffers] if skips else []
        self._carried = tuple(carried) if skips else ()
        self._loss: StepLoss | None = None
        self._skipped = False
        self._waited_s = 0.0

    def batches(self, inner: Batches) -> Batches:
        """`inner`, its waits measured."""
        return _Timed(inner, self)

    def waited(self, seconds: float) -> None:
        """Takes how long this rank waited for the step's batch."""
        self._waited_s = seconds

    def update(self, inner: Update) -> Update:
        """`inner` with steps left out that are dropped or skipped: their loss is 0 of 0 examples."""

        def guarded(gradients: Gradients, apply: Callable[[], None]) -> StepLoss:
            if self._step() + 1 in self.recovery.dropped:
                return StepLoss(torch.zeros((), device=self._device), 0)
            with torch.no_grad():
                for buffer, kept in self._buffers:
                    kept.copy_(buffer)
            put_back = [item.remember() for item in self._carried]
            self._skipped = False

            def remembered(replay: bool = False) -> StepLoss:
                self._loss = gradients(replay)
                return self._loss

            loss = inner(remembered, apply)
            if not self._skipped:
                return loss
            with torch.no_grad():
                for buffer, kept in self._buffers:
                    buffer.copy_(kept)
            for recall in put_back:
                recall()
            return StepLoss(torch.zeros_like(loss.total), 0)

        return guarded

    def passes(self, gradients: Sequence[Tensor]) -> bool:
        """True where the gradients are to be applied. Raises RolledBack or DivergedError where an alarm asks for it."""
        step = self._step() + 1
        alarms = self._alarms(step, gradients)
        gravest = max(alarms, key=lambda alarm: alarm.action, default=None)
        for alarm in alarms:
            if alarm.action is Action.LOG and self.recovery.is_new(alarm, step):
                self._write(step, {"event": alarm.event, "reason": alarm.reason, **alarm.values})
        if gravest is None or gravest.action is Action.LOG:
            self.recovery.applied()
            return True
        if gravest.action is Action.ROLLBACK:
            raise RolledBack(step, gravest)
        name = gravest.action.name.lower()
        self._write(step, {"event": name, "reason": gravest.reason, "alarm": gravest.event, **gravest.values})
        if gravest.action is Action.STOP:
            raise DivergedError(gravest.reason, _HINT)
        self.recovery.skipped(gravest)
        self._skipped = True
        return False

    def forget(self) -> None:
        """Before a state is restored in mid-run: optimizers keep nothing of what came after it."""
        for optimizer in self._optimizers:
            optimizer.state.clear()
            optimizer.zero_grad(set_to_none=True)

    def _alarms(self, step: int, gradients: Sequence[Tensor]) -> list[Alarm]:
        clock = Clock(step, self._waited_s)
        measured = [guard.measure(clock) for guard in self._guards]
        loss, norm, sums = self._read(gradients, [item for item in measured if item is not None])
        # A gradient that overflows at this loss scale is the scaler's: it leaves the step out and lowers the scale.
        if self._scaled and math.isfinite(loss) and not math.isfinite(norm):
            return []
        found = []
        for guard, item in zip(self._guards, measured, strict=True):
            own, sums = ((), sums) if item is None else (sums[: len(item)], sums[len(item) :])
            alarm = guard.judge(Seen(step, loss, norm, own))
            if alarm is not None:
                found.append(alarm)
        return found

    @torch.no_grad()
    def _read(self, gradients: Sequence[Tensor], measured: list[Tensor]) -> tuple[float, float, list[float]]:
        """(mean loss, global gradient norm, sums over all ranks of `measured`), in one reduction and one transfer."""
        items = [item.to(self._device, torch.float32) for item in measured]
        if self._sees_gradients:
            assert self._loss is not None
            norm = self._collect.sum_of_squares(gradients).sqrt()
            broken = (~torch.isfinite(norm)).float()
            items += [torch.stack([self._loss.total.float(), broken])]
        if not items:
            return math.nan, math.nan, []
        summed: list[float] = self._reduce(torch.cat(items)).tolist()
        if not self._sees_gradients:
            return math.nan, math.nan, summed
        *sums, total, broken_ranks = summed
        assert self._loss is not None
        return total / self._loss.examples, math.inf if broken_ranks else float(norm), sums


class _Timed:
    """Batches whose waits are told to `guarding`."""

    def __init__(self, inner: Batches, guarding: Guarding) -> None:
        self._inner = inner
        self._guarding = guarding

    def take(self, step: int) -> StepBatch:
        started_s = time.perf_counter()
        batch = self._inner.take(step)
        self._guarding.waited(time.perf_counter() - started_s)
        return batch


def may_go_back_to(guards: Sequence[Guard]) -> frozenset[int]:
    """The steps whose last checkpoint, or the last one from before, a guard may ask to go back to, besides the newest one."""
    return frozenset(
        step for guard in guards if guard.action is Action.ROLLBACK for step in getattr(guard, "may_go_back_to", ())
    )


def with_recovery(parts: Parts) -> Parts:
    """`parts` with the state and the learning-rate control of recovery, where there are guards."""
    if not parts.guards:
        return parts
    recovery = Recovery()
    control = Control(Target.LEARNING_RATE, recovery.learning_rate)
    return replace(parts, controls=(*parts.controls, control), state={**parts.state, "recovery": recovery})
