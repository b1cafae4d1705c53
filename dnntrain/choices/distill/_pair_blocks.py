"""Examples that are related to each other: whole pair blocks, which no layout cuts."""

from __future__ import annotations

import torch
from torch import Tensor

from dnntrain.protocols import Batch, Context


def block_count(batch: Batch, context: Context) -> int:
    """Whole blocks of `context.pair_block` examples at the front of a micro-batch.

    The rest of a step that its blocks leave, and a last step of an epoch with fewer examples, are not related: layouts may cut them.
    """
    times = context.times
    size = times.size(batch.epoch)
    uneven = context.train_examples % size != 0
    last = (times.steps(batch.epoch) - 1) * size
    if not len(batch) or (uneven and batch.position[0] >= last):
        return 0
    return len(batch) // context.pair_block


def in_blocks(rows: Tensor, count: int, context: Context) -> Tensor:
    """float32 [n, …] → [blocks, pair_block, numbers of an example]."""
    size = context.pair_block
    return rows[: count * size].float().reshape(count, size, rows[0].numel() if len(rows) else 0)


def spread(losses: Tensor, rows: Tensor, context: Context) -> Tensor:
    """The loss of each block [blocks] for each of its examples; 0 for those in none: [n]."""
    each = losses.repeat_interleave(context.pair_block)
    # Zero times the outputs: a micro-batch without a block still takes part in the backward pass.
    rest = rows[len(each) :].float().flatten(1).sum(1) * 0.0
    return torch.cat([each, rest])
