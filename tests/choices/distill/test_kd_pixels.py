"""distill=kd of masks: the mean over the pixels that count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dnntrain.choices.distill.kd import kd_loss, sum_pixels_that_count
from dnntrain.choices.task.segmentation import Segmentation
from dnntrain.protocols import Batch, InputSpec, LossTerm, ModelOutputs, TargetKind, TargetSpec
from dnntrain.training.loss import build_objective


def test_the_loss_is_the_mean_over_pixels_that_count() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 4, 5, 6, generator=generator) for _ in range(2))
    targets = torch.randint(0, 4, (3, 5, 6), generator=generator)
    targets[0, 2:] = 255
    index = np.arange(3)
    batch = Batch(torch.zeros(3, 1, 5, 6), targets, index, index)
    task, spec_inputs = Segmentation(), InputSpec((1, 5, 6), (0.0,), (1.0,))
    spec = task.make_spec(spec_inputs, TargetSpec(tuple("abcd"), TargetKind.MASK))

    def distill(outputs: ModelOutputs, batch: Batch) -> torch.Tensor:
        return sum_pixels_that_count(kd_loss(outputs.outputs, teacher, 2.0), batch.targets)

    objective = build_objective(task, 0.0, (LossTerm("kd", distill, 0.5),), units=task.get_units(spec))
    mean = objective(ModelOutputs(student, {}), batch) / task.count_targets(batch, spec)
    is_counted = targets != 255
    pairs = [logits.permute(0, 2, 3, 1)[is_counted] for logits in (student, teacher)]
    expected = torch.nn.functional.cross_entropy(pairs[0], targets[is_counted]) + 0.5 * kd_loss(*pairs, 2.0).mean()
    assert float(mean) == pytest.approx(float(expected), rel=1e-5)


def test_losses_of_examples_stay_as_they_are() -> None:
    losses = torch.rand(4)
    assert sum_pixels_that_count(losses, torch.zeros(4)) is losses
