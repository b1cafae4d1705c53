"""Compute the loss of a micro-batch as the sum over its examples.

A mean over any number of ranks and micro-batches is then exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from dnntrain.protocols import Batch, LossTerm, ModelOutputs, Task

Objective = Callable[[ModelOutputs, Batch], Tensor]


def build_objective(
    task: Task, label_smoothing: float, terms: Sequence[LossTerm], main_loss_weight: float = 1.0, units: int = 1
) -> Objective:
    """Return `(outputs, batch) → scalar sum of losses`.

    It is the task's loss times `main_loss_weight`, plus the weighted `terms`, each times `units`
    (see `Task.get_units`).
    """

    def compute_task_loss(outputs: ModelOutputs, batch: Batch) -> Tensor:
        return task.loss_sum(outputs.outputs, batch, label_smoothing)

    if not terms and main_loss_weight == 1.0:
        return compute_task_loss

    def compute_total_loss(outputs: ModelOutputs, batch: Batch) -> Tensor:
        total = compute_task_loss(outputs, batch)
        if main_loss_weight != 1.0:
            total = main_loss_weight * total
        for term in terms:
            total = total + units * term.weight * term.apply(outputs, batch).sum()
        return total

    return compute_total_loss
