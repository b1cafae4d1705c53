"""What a trainer would give to a method, for tests of the method alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn
from torch.optim import Optimizer

from dnntrain.protocols import (
    LOSS,
    Batch,
    BuildContext,
    InputSpec,
    MetricInfo,
    ModelSpec,
    OutputSpec,
    SingleProcess,
    TargetSpec,
    TrainerHandles,
)


def built(model: nn.Module, optimizers: Sequence[Optimizer] = (), batches: Sequence[Batch] = ()) -> TrainerHandles:
    """What stands around `model` in one process; `batches` are those of its training, one a step."""

    def training_batches(steps: int) -> Iterator[Batch]:
        return iter(batches[:steps])

    return TrainerHandles(model, optimizers, training_batches, SingleProcess())


#: The metrics of `task=classification`, its usual one first.
METRICS = (MetricInfo("accuracy", higher_is_better=True, unit="%"), LOSS)


def class_spec(
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (1, 8, 8),
    class_names: tuple[str, ...] = (),
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
) -> ModelSpec:
    """A model that takes images and has one logit a class."""
    output = OutputSpec(class_names, (num_classes,), "logits")
    return ModelSpec(InputSpec(input_shape, mean, std), TargetSpec(class_names), output)


def context(
    *, num_classes: int = 10, total_steps: int = 100, steps_per_epoch: int = 10, batch_size: int = 8, seed: int = 0
) -> BuildContext:
    """A run of digits in one process."""
    return BuildContext(
        seed=seed,
        spec=class_spec(num_classes),
        metrics=METRICS,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        batch_size=batch_size,
        learning_rate=0.1,
    )
