"""The executor for layouts in which all ranks run the same program.

These are one process, data parallelism and tensor parallelism.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from dnntrain.distributed.loss_divisor import FixedDivisor, LossDivisor
from dnntrain.distributed.rng_replay import RngReplay
from dnntrain.nn.placeholder_rows import fill_empty, ignore_rows
from dnntrain.protocols import Batch, DeferredLogits, ModelOutputs, PhaseMarker, StepBatch, StepLoss

LossFunction = Callable[[ModelOutputs, Batch], Tensor]


class SpmdExecutor:
    """Runs the forward and backward passes of one rank's share of a step.

    After a step, `.grad` has the gradient of the mean loss over the examples of all ranks. The backward
    pass multiplies the summed losses of a micro-batch by the factor of `divisor`. `device` is the whole
    name of the device, such as cuda:1.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: LossFunction,
        *,
        device: str,
        autocast: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        empty_batch: Batch | None = None,
        replayable: bool = False,
        should_count: bool = True,
        divisor: LossDivisor | None = None,
        no_sync: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._model = model
        self._objective = objective
        # Autocast knows types of devices only.
        self._device, self._device_type = device, torch.device(device).type
        self._autocast = autocast
        self._scaler = scaler
        self._counts = should_count
        self._divide = divisor or FixedDivisor(lambda batch: batch.examples, device)
        self._empty = empty_batch
        self._forward = self._compute_loss if autocast is None else self._compute_autocast_loss
        self._propagate: Callable[[Tensor, Tensor], None] = _propagate_loss
        self._no_sync = no_sync
        self._random = RngReplay(device) if replayable else None

    def compute_gradients(self, batch: StepBatch, replay: bool = False) -> StepLoss:
        """Add the gradients of the step to `.grad` and return its loss.

        `replay` repeats the random numbers of the previous call (dropout).
        """
        micro_batches, passes = batch.micro_batches, batch.num_passes
        weight, divisor = self._divide(batch)
        if self._scaler is not None:
            weight = self._scaler.scale(weight)
        if self._random is not None:
            self._random.begin_pass(replay)
        if len(micro_batches) < passes and self._empty is not None:
            micro_batches = (*micro_batches, *[self._empty] * (passes - len(micro_batches)))
        if len(micro_batches) == 1:
            total = self._backward(micro_batches[0], weight)
        else:
            total = self._accumulate_gradients(micro_batches, weight)
        # Ranks with the same examples (tensor parallelism) must not count them twice.
        return StepLoss(total if self._counts else torch.zeros_like(total), batch.examples, divisor)

    def mark_phases(self, mark: PhaseMarker) -> None:
        """Compute the forward and the backward pass within `mark(name)` from now on."""
        forward, propagate = self._forward, self._propagate

        def compute_marked_loss(micro_batch: Batch) -> Tensor:
            with mark("forward"):
                return forward(micro_batch)

        def propagate_marked(loss: Tensor, weight: Tensor) -> None:
            with mark("backward"):
                propagate(loss, weight)

        self._forward, self._propagate = compute_marked_loss, propagate_marked

    def suspend_sync(self) -> AbstractContextManager[None]:
        """Return a context in which each rank keeps the gradients of its own examples."""
        return self._no_sync()

    def compute_outputs(self, batch: Batch) -> Tensor:
        """Return the outputs [n, …] of the model in its current state."""
        with torch.autocast(self._device_type, self._autocast or torch.bfloat16, enabled=self._autocast is not None):
            return _compute_outputs(self._model, batch.inputs).outputs

    def _accumulate_gradients(self, micro_batches: Sequence[Batch], weight: Tensor) -> Tensor:
        total = torch.zeros((), device=self._device)
        with self._no_sync():
            for micro_batch in micro_batches[:-1]:
                total += self._backward(micro_batch, weight)
        return total + self._backward(micro_batches[-1], weight)

    def _backward(self, micro_batch: Batch, weight: Tensor) -> Tensor:
        """Add the gradients of a micro-batch and return its loss."""
        with nullcontext() if len(micro_batch) else ignore_rows(self._model):
            loss = self._forward(micro_batch)
            self._propagate(loss, weight)
        return loss.detach()

    def _compute_loss(self, micro_batch: Batch) -> Tensor:
        return self._objective(_compute_outputs(self._model, micro_batch.inputs), micro_batch)

    def _compute_autocast_loss(self, micro_batch: Batch) -> Tensor:
        with torch.autocast(self._device_type, self._autocast):
            outputs = _compute_outputs(self._model, micro_batch.inputs)
        return self._objective(outputs, micro_batch)


def _propagate_loss(loss: Tensor, weight: Tensor) -> None:
    """Add the gradients of `loss` · `weight` to `.grad`."""
    loss.backward(weight)  # type: ignore[no-untyped-call]


def _compute_outputs(model: nn.Module, inputs: Tensor) -> ModelOutputs:
    """Return the outputs [n, …] of the model for `inputs` [n, …], and its features if it returns them.

    If n is 0 the model computes placeholder rows, which are cut off.
    """
    result = model(fill_empty(inputs))
    if isinstance(result, DeferredLogits):
        return ModelOutputs(result if len(inputs) else result.take(0), {})  # type: ignore[arg-type]
    outputs = ModelOutputs(*result) if isinstance(result, tuple) else ModelOutputs(result, {})
    if len(inputs):
        return outputs
    return ModelOutputs(outputs.outputs[:0], {name: feature[:0] for name, feature in outputs.features.items()})
