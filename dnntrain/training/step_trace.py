"""Write a Chrome trace of some steps of each rank (`train.profile`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from dnntrain.protocols import StepBatch
from dnntrain.training.cadence import Cadence
from dnntrain.training.loop import Batches
from dnntrain.training.step_phases import mark_trainer
from dnntrain.utils.files import make_folder

if TYPE_CHECKING:
    from dnntrain.training.trainer import Trainer

#: Steps of a trainer before its trace: kernels are chosen, and memory is allocated.
WARMUP_STEPS = 5


class StepTrace:
    """Records `steps` steps of a trainer from step number `first`, and writes them to a file in `folder`.

    The phases of a step are marked in the trace by their names.
    """

    def __init__(self, folder: Path, rank: int, first: int, steps: int) -> None:
        self._first = first
        self._steps_left = steps
        self._path = folder / f"rank_{rank}-step_{first + 1}.json"
        self._profiler: profile | None = None

    def mark(self, name: str) -> AbstractContextManager[object]:
        """Return a context that is an event of the trace."""
        return nullcontext() if self._profiler is None else record_function(name)

    def begin_step(self, step: int) -> None:
        """Start to record if step number `step` is the first one of the trace."""
        if self._profiler is None and self._steps_left and step >= self._first:
            devices = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self._profiler = profile(activities=[ProfilerActivity.CPU, *devices], acc_events=True)
            self._profiler.start()

    def end_step(self) -> None:
        """Count a recorded step, and write the trace after the last one."""
        if self._profiler is not None:
            self._steps_left -= 1
            if self._steps_left == 0:
                self.close()

    def close(self) -> None:
        """Write the steps so far; without any, nothing is written.

        The library writes into a folder that this call has just made, so that it goes through no
        link; a link in the place of the trace is replaced.
        """
        if self._profiler is None:
            return
        profiler, self._profiler, self._steps_left = self._profiler, None, 0
        profiler.stop()
        make_folder(self._path.parent)
        with TemporaryDirectory(prefix=".", dir=self._path.parent) as name:
            profiler.export_chrome_trace(f"{name}/{self._path.name}")
            Path(name, self._path.name).replace(self._path)


def add_trace(trainer: Trainer, trace: StepTrace) -> Trainer:
    """Return the trainer with its steps recorded in `trace`."""
    loop = mark_trainer(trainer, trace.mark)
    batches, cadence = _TracedBatches(loop.batches, trace), _TracedCadence(loop.cadence, trace)
    return replace(trainer, loop=replace(loop, batches=batches, cadence=cadence), trace=trace)


def list_traces(run: Path) -> tuple[str, ...]:
    """Return the traces of a run by their names in its folder."""
    return tuple(f"traces/{path.name}" for path in sorted((run / "traces").glob("rank_*.json")))


class _TracedBatches:
    """Begins the trace before the first batch of a step is taken."""

    def __init__(self, inner: Batches, trace: StepTrace) -> None:
        self._inner = inner
        self._trace = trace

    def take(self, step: int) -> StepBatch:
        self._trace.begin_step(step)
        return self._inner.take(step)


class _TracedCadence(Cadence):
    """Ends the trace after a step, before the events that follow it."""

    def __init__(self, inner: Cadence, trace: StepTrace) -> None:
        self._inner = inner
        self._trace = trace

    def get_due(self, step: int) -> Sequence[Callable[[int], None]]:
        self._trace.end_step()
        return self._inner.get_due(step)

    def rewind(self) -> None:
        self._inner.rewind()
