"""Measure where the time of a step goes, and how close its work comes to the machine's rates."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dnntrain.input.streaming import PREFETCHED
from dnntrain.protocols import Hooks, TrainerHandles
from dnntrain.run.scratch import build_scratch_trainer
from dnntrain.training import step_phases as phase
from dnntrain.training.loop import iterate_steps
from dnntrain.training.step_phases import PHASES, mark_hooks, mark_trainer
from dnntrain.tune.attainable import AttainableRates, make_synchronizer, measure_attainable_rates
from dnntrain.tune.blocks import FIRST_STEPS, agree, fill_cache_of_run, make_first_steps
from dnntrain.tune.phase_clock import PhaseClock
from dnntrain.tune.speed_settings import count_readers
from dnntrain.utils.hardware import use_threads

if TYPE_CHECKING:
    from dnntrain.run.session import Session

#: Time outside of all phases.
GAPS = "gaps"

#: Blocks of steps, in turns without and with the clock.
_BLOCKS = 4


@dataclass(frozen=True)
class StepTime:
    """The time of a step.

    seconds   of a step
    examples  of a step
    phases    seconds by phase, in the order of a step; `callbacks/NAME` by method. On a GPU the
              phases are measured apart, so that their sum may exceed `seconds`. With several ranks they
              are those of the main rank
    """

    seconds: float
    examples: int
    phases: Mapping[str, float]

    def get_share(self, *names: str) -> float:
        """Return the share of phases in the sum of all; a group counts with its parts."""
        total = sum(self.phases.values()) or 1.0
        return sum(value for name, value in self.phases.items() if name.partition("/")[0] in names) / total

    def list_groups(self) -> dict[str, float]:
        """Return the seconds by phase, with the parts of a group added up."""
        groups: dict[str, float] = {}
        for name, value in self.phases.items():
            group = name.partition("/")[0]
            groups[group] = groups.get(group, 0.0) + value
        return groups


@dataclass(frozen=True)
class Rate:
    """A rate that the step reaches, and the rate that a plain operation reaches on this machine."""

    name: str
    achieved: float
    attainable: float
    unit: str

    @property
    def share(self) -> float:
        return self.achieved / self.attainable if self.attainable else 0.0


def measure_phases(session: Session, seconds: float) -> dict[str, Any]:
    """Return `measure_step_time` as plain values, for another process."""
    step, rates = measure_step_time(session, seconds)
    return {"step": asdict(step), "rates": [asdict(rate) for rate in rates]}


def measure_step_time(session: Session, seconds: float) -> tuple[StepTime, tuple[Rate, ...]]:
    """Train for about `seconds` and return the time of a step by phase, and the rates of its work."""
    use_threads(session.plan.threads)
    rates = measure_attainable_rates(session.device, session.plan.precision.torch_dtype)
    clock = PhaseClock(make_synchronizer(session.device))
    handles: list[TrainerHandles] = []

    def mark_method(name: str, hooks: Hooks) -> Hooks:
        marked = mark_hooks(name, hooks, clock.mark)
        return marked if not name.startswith("optim=") else _add_binding(marked, handles)

    trainer = build_scratch_trainer(session, lambda row: None, keeps_callbacks=True, change_hooks=mark_method)
    try:
        fill_cache_of_run(session)
        trainer.start_session()
        steps = iterate_steps(mark_trainer(trainer, clock.mark))
        # The cores of the ranks may differ, and all of them must make the same steps.
        workers = agree(count_readers(session))
        suspend_sync = trainer.loop.executor.suspend_sync
        step_time = _time_steps(steps, clock, session, seconds, workers, suspend_sync)
        moved_bytes = _count_optimizer_bytes(handles[0])
    finally:
        trainer.close()
    return step_time, tuple(_compute_rates(session, step_time, rates, moved_bytes))


def _add_binding(hooks: Hooks, handles: list[TrainerHandles]) -> Hooks:
    return replace(hooks, bindings=(*hooks.bindings, handles.append))


def _time_steps(
    steps: Iterator[int],
    clock: PhaseClock,
    session: Session,
    seconds: float,
    workers: int,
    suspend_sync: Callable[[], AbstractContextManager[None]],
) -> StepTime:
    """Time blocks of steps, in turns without and with the clock; slow steps all with it.

    The first steps use up what `workers` prepared while the first one took long. Slow readers deliver their
    batches together, so at least one of each is timed. Of several ranks, the backward pass is timed with
    and without the sum of gradients; all make the same number of steps.
    """

    def run(count: int) -> float:
        clock.synchronize()
        started = time.perf_counter()
        for _ in range(count):
            next(steps)
        clock.synchronize()
        return time.perf_counter() - started

    steps_s = make_first_steps(run, FIRST_STEPS + PREFETCHED * workers)[1:]
    step_s = max(fmean(steps_s), 1e-6)
    if agree(4 * _BLOCKS * step_s > seconds):
        blocks, count = 1, agree(max(1, round(seconds / step_s), workers))
    else:
        blocks, count = _BLOCKS, agree(max(round(seconds / (2 * _BLOCKS) / step_s), workers))
    plain_s = marked_s = 0.0
    local_s: defaultdict[str, float] = defaultdict(float)
    for _ in range(blocks):
        if blocks > 1:
            clock.is_on = False
            plain_s += run(count)
        clock.is_on = True
        marked_s += run(count)
        if session.plan.ranks > 1:
            clock.seconds, measured_s = local_s, clock.seconds
            with suspend_sync():
                run(count)
            clock.seconds = measured_s
    total = blocks * count
    measured = {name: value / total for name, value in clock.seconds.items()}
    if session.plan.ranks > 1 and phase.BACKWARD in measured:
        waiting_s = max(0.0, measured[phase.BACKWARD] - local_s[phase.BACKWARD] / total)
        measured |= {phase.BACKWARD: measured[phase.BACKWARD] - waiting_s, phase.COMMUNICATION: waiting_s}
    order = {name: number for number, name in enumerate(PHASES)}
    names = sorted(measured, key=lambda name: (order[name.partition("/")[0]], -measured[name]))
    phases = {name: measured[name] for name in names}
    phases[GAPS] = max(0.0, marked_s / total - sum(phases.values()))
    return StepTime((plain_s if blocks > 1 else marked_s) / total, session.plan.batch_size, phases)


def _count_optimizer_bytes(handles: TrainerHandles) -> int:
    """Return the bytes that an update reads and writes at least: weights and state twice, gradients once."""
    total = 0
    for optimizer in handles.optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                state = [item for item in optimizer.state.get(parameter, {}).values() if isinstance(item, Tensor)]
                total += 3 * parameter.nbytes + 2 * sum(item.nbytes for item in state)
    return total


def _compute_rates(session: Session, step: StepTime, rates: AttainableRates, optimizer_bytes: int) -> Iterator[Rate]:
    """Yield the rates of the passes, of the optimizer and of the copy to the device."""
    groups, model, plan = step.list_groups(), session.plan.model, session.plan
    passes_s = sum(groups.get(name, 0.0) for name in (phase.FORWARD, phase.BACKWARD, phase.PASSES))
    if passes_s > 0:
        flops = model.train_flops_factor * model.flops_per_example * plan.batch_size
        yield Rate("forward and backward", flops / passes_s, rates.flops, "FLOP/s")
    if groups.get(phase.OPTIMIZER, 0.0) > 0:
        yield Rate("optimizer", optimizer_bytes / groups[phase.OPTIMIZER], rates.copy_bytes, "B/s")
    if rates.transfer_bytes is not None and groups.get(phase.HOST_TO_DEVICE, 0.0) > 0:
        shape = plan.data.spec.inputs.shape
        size_bytes = plan.data.spec.inputs.bytes_per_value * plan.batch_size
        for side in shape:
            size_bytes *= side
        yield Rate(phase.HOST_TO_DEVICE, size_bytes / groups[phase.HOST_TO_DEVICE], rates.transfer_bytes, "B/s")
