"""Cut the windows of each step to its scheduled length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from dnntrain.planning.seq_len import compute_seq_len, find_seq_len_factor
from dnntrain.protocols import Batch, StepBatch, StepInfo
from dnntrain.training.loop import Batches
from dnntrain.training.progress import Progress
from dnntrain.training.setup import RunSetup


class SequenceLength:
    """The tokens of an example in each step.

    current  the length of the last step that was taken; the whole window before the first
    """

    def __init__(self, factor: Callable[[StepInfo], float], context: int, progress: Progress) -> None:
        self._factor, self._context, self._progress = factor, context, progress
        self.current = context

    def set_step(self, step: int) -> int:
        """Return the length of step number `step`, which becomes the current one."""
        self.current = compute_seq_len(self._factor(self._progress.get_step_info(step)), self._context)
        return self.current


def make_seq_len(setup: RunSetup, progress: Progress) -> SequenceLength | None:
    """Return the scheduled length, or None if every step has whole windows."""
    factor = find_seq_len_factor(setup.hooks.scheduled_values)
    return None if factor is None else SequenceLength(factor, setup.data.spec.inputs.shape[0], progress)


@dataclass(frozen=True)
class ShortBatches:
    """The batches of a run whose windows are cut at their end to the length of the step."""

    batches: Batches
    seq_len: SequenceLength

    def take(self, step: int) -> StepBatch:
        """Return the micro-batches of step number `step`, which depend on nothing else."""
        length = self.seq_len.set_step(step)
        batch = self.batches.take(step)
        micro_batches = [_cut(micro_batch, length) for micro_batch in batch.micro_batches]
        return batch._replace(micro_batches=micro_batches, seq_len=length)


def _cut(batch: Batch, length: int) -> Batch:
    inputs, targets = batch.inputs[:, :length].contiguous(), batch.targets[:, :length].contiguous()
    return replace(batch, inputs=inputs, targets=targets)


def add_seq_len(
    read: Callable[[], Mapping[str, float]], seq_len: SequenceLength | None
) -> Callable[[], Mapping[str, float]]:
    """Return the reader of scheduled values with the length of the last step, if it is scheduled."""
    return read if seq_len is None else lambda: {**read(), "seq_len": seq_len.current}
