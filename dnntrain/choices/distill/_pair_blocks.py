"""Examples that are related to each other: whole pair blocks, which no layout cuts."""

from __future__ import annotations

import torch
from torch import Tensor

from dnntrain.protocols import Batch, BuildContext


def count_blocks(batch: Batch, context: BuildContext) -> int:
    """Whole blocks of `context.pair_block` examples at the front of a micro-batch.

    The rest of a step that its blocks leave, and a last step of an epoch with fewer examples, are not related: layouts may cut them.
    """
    times = context.epoch_schedule
    size = times.batch_size_at(batch.epoch)
    is_uneven = context.train_examples % size != 0
    last_step_start = (times.steps_in_epoch(batch.epoch) - 1) * size
    if not len(batch) or (is_uneven and batch.position[0] >= last_step_start):
        return 0
    return len(batch) // context.pair_block


def split_into_blocks(rows: Tensor, count: int, context: BuildContext) -> Tensor:
    """float32 [n, …] → [blocks, pair_block, numbers of an example]."""
    size = context.pair_block
    return rows[: count * size].float().reshape(count, size, rows[0].numel() if len(rows) else 0)


def spread_over_examples(losses: Tensor, rows: Tensor, context: BuildContext) -> Tensor:
    """The loss of each block [blocks] for each of its examples; 0 for those in none: [n]."""
    example_losses = losses.repeat_interleave(context.pair_block)
    # Zero times the outputs: a micro-batch without a block still takes part in the backward pass.
    rest = rows[len(example_losses) :].float().flatten(1).sum(1) * 0.0
    return torch.cat([example_losses, rest])
