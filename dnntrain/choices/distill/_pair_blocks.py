"""Relate examples to each other within whole pair blocks.

No layout divides a pair block among ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dnntrain.protocols import Batch, BuildContext


def count_blocks(batch: Batch, context: BuildContext) -> int:
    """Return the number of whole blocks at the front of a micro-batch.

    A block has `context.pair_block` examples. The remaining examples of a step are not related,
    nor are those of an epoch's last step with fewer examples: layouts may divide them.
    """
    size = context.epoch_schedule.batch_size_at(batch.epoch)
    if not len(batch) or batch.position[0] // size * size + size > context.train_examples:
        return 0
    return len(batch) // context.pair_block


def split_into_blocks(rows: Tensor, count: int, context: BuildContext) -> Tensor:
    """Split float32 rows: [n, …] → [blocks, block size, values of an example]."""
    size = context.pair_block
    return rows[: count * size].float().reshape(count, size, rows[0].numel() if len(rows) else 0)


def spread_over_examples(losses: Tensor, rows: Tensor, context: BuildContext) -> Tensor:
    """Give each example [n] the loss of its block [blocks], or 0 without a block."""
    example_losses = losses.repeat_interleave(context.pair_block)
    # Zero times the outputs keeps a micro-batch without a block in the backward pass.
    rest = rows[len(example_losses) :].float().flatten(1).sum(1) * 0.0
    return torch.cat([example_losses, rest])
