"""Know the networks that the channels-last format is not safe for."""

from __future__ import annotations

from torch import nn

#: Inputs from which the kernel of torch 2.14 stays within its memory.
_LEAST_INPUTS = 8


def overflows_in_channels_last(model: nn.Module) -> bool:
    """Return True if a CPU kernel may write out of bounds for this network in the channels-last format.

    torch 2.14's backward pass of 1x1 convolutions with a stride and fewer than 8 inputs does so.
    """
    return any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels < _LEAST_INPUTS
        for module in model.modules()
    )
