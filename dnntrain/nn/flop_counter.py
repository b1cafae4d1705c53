"""Count the floating-point operations of a forward pass, operator by operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class ZeroFill(TorchFunctionMode):
    """Fills tensors with zeros instead of random numbers, which also ends the loop of a truncated distribution."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _FILL_FUNCTIONS:
            tensor: Tensor = args[0] if args else (kwargs or {})["tensor"]
            with torch.no_grad():
                return tensor.zero_()
        return func(*args, **(kwargs or {}))


class FlopCounter(TorchFunctionMode):
    """Sums the operations of the functions in `_FLOP_COUNTERS`, from their inputs and their result."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.backward_flops = 0
        self.operators = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _FLOP_COUNTERS:
            self.operators += 1
            flops = _FLOP_COUNTERS[func](result, *args, **kwargs)
            self.flops += flops
            operands = [item for item in args if isinstance(item, Tensor) and item.ndim > 1]
            self.backward_flops += flops * min(2, sum(item.requires_grad for item in operands))
        return result


def _count_linear(result: Tensor, images: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    return 2 * result.numel() * weight.shape[1]


def _count_convolution(result: Tensor, images: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    """Count a product over the weight's [in / groups, kernel …] for each output."""
    return 2 * result.numel() * math.prod(weight.shape[1:])


def _count_transposed_convolution(result: Tensor, images: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    """Count a product over the weight's [out / groups, kernel …] for each input."""
    return 2 * images.numel() * math.prod(weight.shape[1:])


def _count_product(result: Tensor, left: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
    return 2 * result.numel() * left.shape[-1]


def _count_added_product(result: Tensor, added: Tensor, left: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
    return 2 * result.numel() * left.shape[-1]


def _count_einsum(result: Tensor, equation: Any, *operands: Any, **_: Any) -> int:
    """Count one multiply-add for each number of the result and each combination of the summed indices."""
    if not isinstance(equation, str):
        return 0
    tensors = operands[0] if isinstance(operands[0], list | tuple) else operands
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for term, tensor in zip(inputs.split(","), tensors, strict=True):
        left, _dots, right = term.partition("...")
        sizes.update(zip(left, tensor.shape, strict=False))
        sizes.update(zip(reversed(right), reversed(tensor.shape), strict=False))
    summed_letters = [letter for letter in sizes if (letter not in output if arrow else inputs.count(letter) > 1)]
    return 2 * int(result.numel()) * math.prod(sizes[letter] for letter in summed_letters)


def _count_attention(result: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Count query @ key^T and weights @ value: [.., queries, width] and [.., keys, width]."""
    pairs = math.prod(query.shape[:-1]) * key.shape[-2]
    return 2 * pairs * (query.shape[-1] + value.shape[-1])


def _count_multi_head(result: Any, query: Tensor, key: Tensor, value: Tensor, width: int, *_: Any, **__: Any) -> int:
    """Count four projections of [length, batch, width] and the attention between them."""
    queries, keys = math.prod(query.shape[:-1]), math.prod(key.shape[:-1])
    projections = 4 * width * width * (queries + keys)
    return projections + 4 * queries * key.shape[0] * width


_FLOP_COUNTERS: dict[Any, Callable[..., int]] = {
    functional.linear: _count_linear,
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _count_convolution),
    **dict.fromkeys(
        (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), _count_transposed_convolution
    ),
    **dict.fromkeys(
        (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.mm, Tensor.mm), _count_product
    ),
    **dict.fromkeys((torch.addmm, Tensor.addmm, torch.baddbmm, Tensor.baddbmm), _count_added_product),
    torch.einsum: _count_einsum,
    functional.scaled_dot_product_attention: _count_attention,
    functional.multi_head_attention_forward: _count_multi_head,
}


_FILL_FUNCTIONS = frozenset(
    {
        *(getattr(Tensor, name) for name in ("uniform_", "normal_", "random_", "bernoulli_", "exponential_")),
        *(getattr(nn.init, name) for name in ("uniform_", "normal_", "kaiming_uniform_", "kaiming_normal_")),
    }
)
