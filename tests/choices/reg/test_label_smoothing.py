"""Label smoothing equals cross-entropy against smoothed targets."""

from __future__ import annotations

import numpy as np
import torch
from stand_ins import context

from dnntrain.choices.reg.label_smoothing import LabelSmoothing
from dnntrain.choices.task.classification import Classification
from dnntrain.protocols import Batch, ModelOutputs
from dnntrain.training.loss import build_objective


def test_loss_equals_cross_entropy_against_smoothed_onehot_targets() -> None:
    torch.manual_seed(0)
    outputs, targets = torch.randn(6, 10), torch.randint(0, 10, (6,))
    parts = LabelSmoothing(0.2).build(context())
    index = np.arange(6)
    loss = build_objective(Classification(), parts.label_smoothing, ())(
        ModelOutputs(outputs, {}), Batch(outputs, targets, index, index)
    )
    smoothed = 0.8 * torch.eye(10)[targets] + 0.2 / 10
    torch.testing.assert_close(loss, -(smoothed * outputs.log_softmax(1)).sum())
