"""Gradients that lie in memory as their weights do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def keep_grad_strides(weight: Tensor) -> Tensor:
    """`weight`, whose gradient will have its strides.

    Elementwise functions choose the stride of a dimension of size 1 anew, so that the gradient of a filter for images of one channel,
    or of one pixel, says that it is contiguous where the filter is channels-last. No number moves; but DDP, whose buckets have the
    weights' strides, warns of it and copies number by number.
    """
    result: Tensor = _KeepGradStrides.apply(weight)
    return result


def match_strides(gradient: Tensor, strides: tuple[int, ...]) -> Tensor:
    """`gradient` with `strides` where they name the same places in memory: they differ in dimensions of size 1 alone."""
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
