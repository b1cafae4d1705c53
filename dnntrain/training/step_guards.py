"""Ask the guards (`monitor=`) about each step before it is applied, and act on their alarms.

All ranks act alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from dnntrain.errors import DivergedError
from dnntrain.protocols import (
    Action,
    Alarm,
    Collectives,
    ComputeGradients,
    OptimizerStep,
    StepBatch,
    StepGuard,
    StepLoss,
    StepStats,
    StepTiming,
)
from dnntrain.training.loop import Batches
from dnntrain.training.recovery import STABILITY_HINT, Recovery, RollbackRequest


class StepState(Protocol):
    """The state that a step passes to the next one, besides weights, optimizers and buffers.

    `snapshot()` returns a function that restores it.
    """

    def snapshot(self) -> Callable[[], None]: ...


class GuardRunner:
    """Check the update and the batches of a run that has guards.

    `write(step, values)` writes a row of split "event"; `reduce` sums a tensor over all ranks in
    place; `step` returns the steps done. All ranks act on the same alarm, because its values are
    summed over all of them in one transfer.
    """

    def __init__(
        self,
        guards: Sequence[StepGuard],
        recovery: Recovery,
        *,
        step: Callable[[], int],
        write: Callable[[int, Mapping[str, Any]], None],
        reduce: Callable[[Tensor], Tensor],
        collectives: Collectives,
        optimizers: Sequence[torch.optim.Optimizer],
        buffers: Iterable[Tensor],
        device: str,
        has_scaler: bool,
        step_states: Iterable[StepState] = (),
    ) -> None:
        self._guards = guards
        self.recovery = recovery
        self._step = step
        self._write = write
        self._reduce = reduce
        self._collectives = collectives
        self._optimizers = optimizers
        self._device = device
        self._has_scaler = has_scaler
        self._sees_gradients = has_scaler or any(guard.needs_gradients for guard in guards)
        self.can_roll_back = any(guard.action is Action.ROLLBACK for guard in guards)
        skips = any(guard.action is Action.SKIP for guard in guards)
        # A skipped batch has already moved the running statistics of batch normalization.
        self._buffers = [(buffer, buffer.clone()) for buffer in buffers] if skips else []
        self._step_states = tuple(step_states) if skips else ()
        self._loss: StepLoss | None = None
        self._is_step_skipped = False
        self._wait_s = 0.0

    def time_batches(self, inner: Batches) -> Batches:
        """Return `inner` with its waits measured."""
        return _TimedBatches(inner, self)

    def record_wait(self, seconds: float) -> None:
        """Record how long this rank waited for the step's batch."""
        self._wait_s = seconds

    def wrap_update(self, inner: OptimizerStep) -> OptimizerStep:
        """Return `inner` without dropped or skipped steps: their loss is 0 of 0 examples."""

        def run_update(compute_gradients: ComputeGradients, apply: Callable[[], None]) -> StepLoss:
            if self._step() + 1 in self.recovery.dropped_steps:
                return StepLoss(torch.zeros((), device=self._device), 0, 0)
            with torch.no_grad():
                for buffer, backup in self._buffers:
                    backup.copy_(buffer)
            restorers = [step_state.snapshot() for step_state in self._step_states]
            self._is_step_skipped = False

            def compute_and_keep_loss(replay: bool = False) -> StepLoss:
                self._loss = compute_gradients(replay)
                return self._loss

            loss = inner(compute_and_keep_loss, apply)
            if not self._is_step_skipped:
                return loss
            with torch.no_grad():
                for buffer, backup in self._buffers:
                    buffer.copy_(backup)
            for restore in restorers:
                restore()
            return StepLoss(torch.zeros_like(loss.total), 0, 0)

        return run_update

    def should_apply(self, gradients: Sequence[Tensor]) -> bool:
        """Return whether to apply the gradients.

        Raises RollbackRequest or DivergedError if an alarm asks for it.
        """
        step = self._step() + 1
        alarms = self._find_alarms(step, gradients)
        gravest = max(alarms, key=lambda alarm: alarm.action, default=None)
        for alarm in alarms:
            if alarm.action is Action.LOG and self.recovery.is_new(alarm, step):
                self._write(step, {"event": alarm.event, "reason": alarm.reason, **alarm.values})
        if gravest is None or gravest.action is Action.LOG:
            self.recovery.record_applied_step()
            return True
        if gravest.action is Action.ROLLBACK:
            raise RollbackRequest(step, gravest)
        name = gravest.action.name.lower()
        self._write(step, {"event": name, "reason": gravest.reason, "alarm": gravest.event, **gravest.values})
        if gravest.action is Action.STOP:
            raise DivergedError(gravest.reason, STABILITY_HINT)
        self.recovery.record_skip(gravest)
        self._is_step_skipped = True
        return False

    def clear_optimizer_state(self) -> None:
        """Clear the state of the optimizers before an earlier state is restored."""
        for optimizer in self._optimizers:
            optimizer.state.clear()
            optimizer.zero_grad(set_to_none=True)

    def _find_alarms(self, step: int, gradients: Sequence[Tensor]) -> list[Alarm]:
        clock = StepTiming(step, self._wait_s)
        measurements = [guard.measure(clock) for guard in self._guards]
        loss, norm, sums = self._read_step_stats(
            gradients, [measurement for measurement in measurements if measurement is not None]
        )
        # The scaler handles a gradient that overflows at this loss scale: it skips the step and
        # lowers the scale.
        if self._has_scaler and math.isfinite(loss) and not math.isfinite(norm):
            return []
        # A step in which nothing counts, such as one of pixels without a class, has no loss and no gradient to judge.
        is_empty = loss == 0 and norm == 0 and self._loss is not None and not int(self._loss.weight)
        alarms = []
        for guard, measurement in zip(self._guards, measurements, strict=True):
            guard_sums, sums = (
                ((), sums) if measurement is None else (sums[: len(measurement)], sums[len(measurement) :])
            )
            is_judged = not (is_empty and guard.needs_gradients)
            alarm = guard.judge(StepStats(step, loss, norm, guard_sums)) if is_judged else None
            if alarm is not None:
                alarms.append(alarm)
        return alarms

    @torch.no_grad()
    def _read_step_stats(
        self, gradients: Sequence[Tensor], measurements: list[Tensor]
    ) -> tuple[float, float, list[float]]:
        """Return (mean loss, global gradient norm, sums over all ranks of `measurements`).

        This takes one reduction and one transfer.
        """
        tensors = [measurement.to(self._device, torch.float32) for measurement in measurements]
        if self._sees_gradients:
            assert self._loss is not None
            norm = self._collectives.sum_of_squares(gradients).sqrt()
            is_broken = (~torch.isfinite(norm)).float().to(self._loss.total.device)
            tensors += [torch.stack([self._loss.total.float(), is_broken])]
        if not tensors:
            return math.nan, math.nan, []
        totals: list[float] = self._reduce(torch.cat(tensors)).tolist()
        if not self._sees_gradients:
            return math.nan, math.nan, totals
        *sums, total, broken_ranks = totals
        assert self._loss is not None
        return total / max(int(self._loss.weight), 1), math.inf if broken_ranks else float(norm), sums


class _TimedBatches:
    """Batches that report their waits to the guard runner."""

    def __init__(self, inner: Batches, guard_runner: GuardRunner) -> None:
        self._inner = inner
        self._guard_runner = guard_runner

    def take(self, step: int) -> StepBatch:
        started_s = time.perf_counter()
        batch = self._inner.take(step)
        self._guard_runner.record_wait(time.perf_counter() - started_s)
        return batch
