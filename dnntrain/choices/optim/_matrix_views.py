"""Convolution weights as matrices that share their memory.

[out, in, height, width] becomes [out, in * height * width].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.utils.dtensor import is_sharded, local_shard


def as_matrix(tensor: Tensor) -> Tensor:
    """Return a view [out, -1] of a tensor [out, …], in the order of memory."""
    if tensor.ndim == 4 and not tensor.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.view(len(tensor), -1)


def from_matrix(matrix: Tensor, tensor: Tensor) -> Tensor:
    """Invert `as_matrix`: return `matrix` in the shape and memory format of `tensor`."""
    if tensor.ndim == 4 and not tensor.is_contiguous():
        out, channels, height, width = tensor.shape
        return matrix.reshape(out, height, width, channels).permute(0, 3, 1, 2)
    return matrix.reshape(tensor.shape)


def get_matrix_gradient(parameter: nn.Parameter) -> Tensor:
    """Return the parameter's gradient as a matrix in the memory order of the parameter."""
    assert parameter.grad is not None
    gradient, local_parameter = local_shard(parameter.grad), local_shard(parameter.detach())
    if gradient.stride() != local_parameter.stride():
        gradient = torch.empty_like(local_parameter).copy_(gradient)
    return as_matrix(gradient)


def make_matrix_groups(groups: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[nn.Parameter, nn.Parameter]]:
    """Return `groups` with four-dimensional parameters replaced by matrix views.

    Also returns {view: parameter}. DTensors, also those that this rank holds whole, are replaced by
    plain tensors.
    """
    parameter_by_view: dict[nn.Parameter, nn.Parameter] = {}
    view_groups = []
    for group in groups:
        named_views = []
        for name, parameter in group["params"]:
            needs_view = parameter.ndim == 4 or is_sharded(parameter)
            view = nn.Parameter(as_matrix(local_shard(parameter.detach()))) if needs_view else parameter
            parameter_by_view[view] = parameter
            named_views.append((name, view))
        view_groups.append({**group, "params": named_views})
    return view_groups, parameter_by_view


@contextmanager
def swap_in_matrix_gradients(parameter_by_view: Mapping[nn.Parameter, nn.Parameter]) -> Iterator[None]:
    """Give the views the gradients of their parameters during a step."""
    views = [(view, owner) for view, owner in parameter_by_view.items() if view is not owner]
    for view, owner in views:
        view.grad = None if owner.grad is None else get_matrix_gradient(owner)
    yield
    for view, _ in views:
        view.grad = None
