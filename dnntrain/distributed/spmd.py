"""The executor of layouts in which every rank runs the same program: one process and data parallelism."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from dnntrain.distributed.rng_replay import RandomNumbers
from dnntrain.protocols import Batch, Outputs, StepBatch, StepLoss

LossOf = Callable[[Outputs, Batch], Tensor]


class SpmdExecutor:
    """Forward and backward of one rank's share of a step.

    Leaves in `.grad` the gradient of the mean loss over the step's examples on all ranks: each micro-batch's sum of losses is weighted
    with ranks / global count in its backward pass (the wrapped module averages over the `ranks` that share a batch).
    """

    def __init__(
        self,
        model: nn.Module,
        objective: LossOf,
        *,
        device: str,
        autocast: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        ranks: int = 1,
        empty: Batch | None = None,
        replayable: bool = False,
        counts: bool = True,
        unsynchronised: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._model = model
        self._objective = objective
        self._device = device
        self._autocast = autocast
        self._scaler = scaler
        self._ranks = ranks
        self._counts = counts
        self._empty = empty
        self._weights: dict[int, Tensor] = {}
        self._forward = self._full if autocast is None else self._mixed
        self._unsynchronised = unsynchronised
        self._random = RandomNumbers(device) if replayable else None

    def gradients(self, batch: StepBatch, replay: bool = False) -> StepLoss:
        """Adds this step's gradients. `replay` repeats the random numbers of the call before (dropout)."""
        micro, count, passes = batch
        weight = self._weights.get(count)
        if weight is None:
            weight = self._weights[count] = torch.tensor(self._ranks / count, device=self._device)
        if self._scaler is not None:
            weight = self._scaler.scale(weight)
        if self._random is not None:
            self._random.begin(replay)
        if len(micro) < passes and self._empty is not None:
            micro = (*micro, *[self._empty] * (passes - len(micro)))
        if len(micro) == 1:
            loss = self._forward(micro[0])
            loss.backward(weight)  # type: ignore[no-untyped-call]
            total = loss.detach()
        else:
            total = self._accumulated(micro, weight)
        # Ranks that compute the same examples (tensor parallelism) must not count them twice.
        return StepLoss(total if self._counts else torch.zeros_like(total), count)

    def outputs(self, batch: Batch) -> Tensor:
        """The logits [n, classes] of the model, as it stands."""
        with torch.autocast(self._device, self._autocast or torch.bfloat16, enabled=self._autocast is not None):
            return _outputs(self._model(batch.images)).logits

    def _accumulated(self, micro: Sequence[Batch], weight: Tensor) -> Tensor:
        total = torch.zeros((), device=self._device)
        with self._unsynchronised():
            for part in micro[:-1]:
                loss = self._forward(part)
                loss.backward(weight)  # type: ignore[no-untyped-call]
                total += loss.detach()
        loss = self._forward(micro[-1])
        loss.backward(weight)  # type: ignore[no-untyped-call]
        return total + loss.detach()

    def _full(self, part: Batch) -> Tensor:
        return self._objective(_outputs(self._model(part.images)), part)

    def _mixed(self, part: Batch) -> Tensor:
        with torch.autocast(self._device, self._autocast):
            outputs = self._model(part.images)
        return self._objective(_outputs(outputs), part)


def _outputs(found: Tensor | tuple[Tensor, dict[str, Tensor]]) -> Outputs:
    """What a model returned: logits, or logits and captured features."""
    return Outputs(*found) if isinstance(found, tuple) else Outputs(found, {})
