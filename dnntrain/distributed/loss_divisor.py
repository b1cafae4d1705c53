"""Find the divisor of a step's summed loss: known before the step, or counted over all ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dnntrain.protocols import Batch, ModelSpec, StepBatch, Task
from dnntrain.protocols.context import Collectives, SingleProcess

#: Returns the factor on the summed losses of this rank, and the divisor that it belongs to. The
#: factor is ranks / divisor, since data parallelism averages over the ranks that share a batch.
LossDivisor = Callable[[StepBatch], tuple[Tensor, int | Tensor]]


def make_loss_divisor(
    task: Task, spec: ModelSpec, device: str, ranks: int = 1, collectives: Collectives | None = None
) -> LossDivisor:
    """Return the divisor of the losses of `task`. `ranks` is the number of data-parallel ranks."""
    if task.counts_targets:
        return CountedDivisor(lambda batch: task.count_targets(batch, spec), device, ranks, collectives)
    return FixedDivisor(lambda batch: task.loss_weight(batch.examples, _cut_spec(spec, batch.seq_len)), device, ranks)


def _cut_spec(spec: ModelSpec, seq_len: int | None) -> ModelSpec:
    """Return the specification of examples of `seq_len` tokens."""
    return spec if seq_len is None else replace(spec, inputs=replace(spec.inputs, shape=(seq_len,)))


class FixedDivisor:
    """A divisor that follows from the number of examples on all ranks, and from their length."""

    def __init__(self, weigh: Callable[[StepBatch], int], device: str, ranks: int = 1) -> None:
        self._weigh, self._device, self._ranks = weigh, device, ranks
        self._factors: dict[int, Tensor] = {}

    def __call__(self, batch: StepBatch) -> tuple[Tensor, int]:
        divisor = self._weigh(batch)
        factor = self._factors.get(divisor)
        if factor is None:
            factor = self._factors[divisor] = torch.tensor(self._ranks / divisor, device=self._device)
        return factor, divisor


class CountedDivisor:
    """The number of targets that count, summed over the micro-batches of all ranks.

    The counts stay on the device, so the host does not wait. Of a step in which none counts, the
    factor is `ranks`; its losses are 0.
    """

    def __init__(
        self, count: Callable[[Batch], Tensor], device: str, ranks: int = 1, collectives: Collectives | None = None
    ) -> None:
        self._count, self._device, self._ranks = count, device, ranks
        self._collectives: Collectives = collectives or SingleProcess()

    @torch.no_grad()
    def __call__(self, batch: StepBatch) -> tuple[Tensor, Tensor]:
        total = torch.zeros((), dtype=torch.int64, device=self._device)
        for micro_batch in batch.micro_batches:
            total = total + self._count(micro_batch)
        total = self._collectives.data_sum(total)
        return self._ranks / total.clamp(min=1).float(), total
