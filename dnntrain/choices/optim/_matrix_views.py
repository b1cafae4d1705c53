"""Convolution weights seen as matrices: [out, in, height, width] as [out, in * height * width], sharing their memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.utils.dtensor import is_sharded, local


def as_matrix(tensor: Tensor) -> Tensor:
    """[out, …] → a view [out, -1], in the order of memory."""
    if tensor.ndim == 4 and not tensor.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.view(len(tensor), -1)


def from_matrix(matrix: Tensor, tensor: Tensor) -> Tensor:
    """The inverse of `as_matrix`: `matrix`, made of a tensor of the shape and memory format of `tensor`, in that shape."""
    if tensor.ndim == 4 and not tensor.is_contiguous():
        out, channels, height, width = tensor.shape
        return matrix.reshape(out, height, width, channels).permute(0, 3, 1, 2)
    return matrix.reshape(tensor.shape)


def matrix_gradient(parameter: nn.Parameter) -> Tensor:
    """The parameter's gradient as a matrix whose elements stand where those of the parameter do."""
    assert parameter.grad is not None
    gradient, here = local(parameter.grad), local(parameter.detach())
    if gradient.stride() != here.stride():
        gradient = torch.empty_like(here).copy_(gradient)
    return as_matrix(gradient)


def matrix_groups(groups: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[nn.Parameter, nn.Parameter]]:
    """`groups` with every parameter of four dimensions replaced by a two-dimensional one, and {the one that stands in: the real one}.

    Copies on several ranks (DTensors that are whole here) are replaced by plain ones.
    """
    owners: dict[nn.Parameter, nn.Parameter] = {}
    viewed = []
    for group in groups:
        named = []
        for name, parameter in group["params"]:
            stands_in = parameter.ndim == 4 or is_sharded(parameter)
            view = nn.Parameter(as_matrix(local(parameter.detach()))) if stands_in else parameter
            owners[view] = parameter
            named.append((name, view))
        viewed.append({**group, "params": named})
    return viewed, owners


@contextmanager
def matrix_gradients(owners: Mapping[nn.Parameter, nn.Parameter]) -> Iterator[None]:
    """The gradients of the real parameters at those that stand in for them, while a step is made."""
    views = [(view, owner) for view, owner in owners.items() if view is not owner]
    for view, owner in views:
        view.grad = None if owner.grad is None else matrix_gradient(owner)
    yield
    for view, _ in views:
        view.grad = None
