"""Compute the network on a rank without examples.

Ranks that compute together call the network equally often, but most networks cannot compute zero
rows. A rank without examples therefore computes placeholder rows, whose outputs are cut off: their
weight in the loss is 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

#: Batch normalization needs two numbers per channel.
_ROWS = 2

#: Whether passes of placeholder rows run. A plain global, since backward passes run in other threads.
_IS_IGNORING = False


class JointStatistics(nn.Module):
    """A layer whose forward pass joins the statistics of all ranks.

    While `is_ignoring_rows()`, it takes part in the collective operations and updates its buffers
    from the examples of the other ranks.
    """


def is_ignoring_rows() -> bool:
    """Return whether the rows of this forward pass are placeholders, which nothing may measure."""
    return _IS_IGNORING


def fill_empty(inputs: Tensor) -> Tensor:
    """Return `inputs` [n, …], or placeholder rows [2, …] if n is 0.

    Placeholder rows are fixed noise of deviation 1, since constant rows have infinite gradients in
    some layers. Cut the outputs to n rows.
    """
    if len(inputs):
        return inputs
    shape = (_ROWS, *inputs.shape[1:])
    if not inputs.is_floating_point():
        return inputs.new_zeros(shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(inputs)


@contextmanager
def ignore_rows(model: nn.Module) -> Iterator[None]:
    """Let forward and backward passes of placeholder rows leave no statistics in `model`.

    Buffers are restored, except those of `JointStatistics`, which measure the other ranks.
    """
    global _IS_IGNORING
    joint_layers = [module for module in model.modules() if isinstance(module, JointStatistics)]
    joint_buffers = {id(buffer) for layer in joint_layers for buffer in layer.buffers()}
    saved = [(buffer, buffer.clone()) for buffer in model.buffers() if id(buffer) not in joint_buffers]
    _IS_IGNORING = True
    try:
        yield
    finally:
        _IS_IGNORING = False
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)
