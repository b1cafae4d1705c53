"""The loss of a micro-batch: the sum over its examples, so that a mean over any number of ranks and micro-batches is exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn.functional import cross_entropy

from dnntrain.protocols import Batch, LossTerm, ModelOutputs

Objective = Callable[[ModelOutputs, Batch], Tensor]


def build_objective(label_smoothing: float, terms: Sequence[LossTerm], task_weight: float = 1.0) -> Objective:
    """`(outputs, batch) → scalar sum of losses`: cross-entropy times `task_weight`, plus the weighted `terms`.

    Targets are class indices or probabilities. Outputs in half precision are widened first.
    """

    def compute_task_loss(outputs: ModelOutputs, batch: Batch) -> Tensor:
        return cross_entropy(outputs.outputs.float(), batch.targets, reduction="sum", label_smoothing=label_smoothing)

    if not terms and task_weight == 1.0:
        return compute_task_loss

    def compute_total_loss(outputs: ModelOutputs, batch: Batch) -> Tensor:
        total = (
            compute_task_loss(outputs, batch) if task_weight == 1.0 else task_weight * compute_task_loss(outputs, batch)
        )
        for term in terms:
            total = total + term.weight * term.apply(outputs, batch).sum()
        return total

    return compute_total_loss
