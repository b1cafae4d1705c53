"""The divisor of a step's loss: known from the examples, or counted in the targets of all ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dnntrain.choices.task.classification import Classification
from dnntrain.choices.task.segmentation import Segmentation
from dnntrain.distributed.loss_divisor import make_loss_divisor
from dnntrain.protocols import Batch, InputSpec, SingleProcess, StepBatch, TargetKind, TargetSpec

INPUTS = InputSpec((1, 2, 2), (0.0,), (1.0,))


@dataclass(frozen=True)
class OtherRanks(SingleProcess):
    """Other ranks hold `others` pixels that count."""

    others: int = 0

    def data_sum(self, tensor: Tensor) -> Tensor:
        return tensor + self.others


def make_batch(targets: Tensor) -> Batch:
    index = np.arange(len(targets))
    return Batch(torch.zeros(len(targets), 1, 2, 2), targets, index, index)


def test_the_divisor_of_classes_is_the_number_of_examples_on_all_ranks() -> None:
    task = Classification()
    spec = task.make_spec(INPUTS, TargetSpec(("a", "b")))
    step = StepBatch([make_batch(torch.zeros(3, dtype=torch.int64))], examples=9)
    factor, divisor = make_loss_divisor(task, spec, "cpu", 3)(step)
    assert (float(factor), divisor) == (torch.tensor(3 / 9).item(), 9)


def test_pixels_are_counted_over_micro_batches_and_ranks() -> None:
    task = Segmentation()
    spec = task.make_spec(INPUTS, TargetSpec(("a", "b"), TargetKind.MASK))
    masks = torch.tensor([[[0, 1], [255, 255]], [[1, 1], [1, 0]], [[255, 255], [255, 255]]])
    step = StepBatch([make_batch(masks[:2]), make_batch(masks[2:])], examples=6, num_passes=2)
    factor, divisor = make_loss_divisor(task, spec, "cpu", 2, OtherRanks(others=4))(step)
    assert int(divisor) == 10
    assert float(factor) == torch.tensor(2 / 10).item()
    empty = StepBatch([make_batch(masks[2:])], examples=2)
    factor, divisor = make_loss_divisor(task, spec, "cpu")(empty)
    assert (float(factor), int(divisor)) == (1.0, 0)
