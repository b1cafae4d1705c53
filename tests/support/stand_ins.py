"""What a trainer would give to a method, for tests of the method alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn
from torch.optim import Optimizer

from dnntrain.protocols import Batch, BuildContext, SingleProcess, TrainerHandles


def built(model: nn.Module, optimizers: Sequence[Optimizer] = (), batches: Sequence[Batch] = ()) -> TrainerHandles:
    """What stands around `model` in one process; `batches` are those of its training, one a step."""

    def training_batches(steps: int) -> Iterator[Batch]:
        return iter(batches[:steps])

    return TrainerHandles(model, optimizers, training_batches, SingleProcess())


def context(
    *, num_classes: int = 10, total_steps: int = 100, steps_per_epoch: int = 10, batch_size: int = 8, seed: int = 0
) -> BuildContext:
    """A run of digits in one process."""
    return BuildContext(
        seed=seed,
        num_classes=num_classes,
        input_shape=(1, 8, 8),
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        batch_size=batch_size,
        learning_rate=0.1,
    )
