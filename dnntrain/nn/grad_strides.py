"""Keep the memory layout of gradients equal to the layout of their weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def keep_grad_strides(weight: Tensor) -> Tensor:
    """Return `weight`; its gradient will have the same strides.

    Elementwise functions choose a new stride for a dimension of size 1. The gradient of a filter
    for images of one channel, or of one pixel, then claims to be contiguous although the filter is
    channels-last. No number moves; but DDP, whose buckets have the weights' strides, warns of it
    and copies number by number.
    """
    result: Tensor = _KeepGradStrides.apply(weight)
    return result


def match_strides(gradient: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Return `gradient` with `strides` if both address the same memory.

    The strides may differ in dimensions of size 1 only.
    """
    grad_strides = gradient.stride()
    if grad_strides != strides and all(
        size == 1 or grad_stride == stride
        for size, grad_stride, stride in zip(gradient.shape, grad_strides, strides, strict=True)
    ):
        return gradient.as_strided(gradient.shape, strides)
    return gradient


class _KeepGradStrides(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.strides = weight.stride()
        return weight.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return match_strides(gradients[0], ctx.strides)
