"""Sequence parallelism: between divided layers, each tensor-parallel rank has its positions of a text only.

Norms, sums and dropout then compute and keep 1/n of the positions. A layer that is divided by outputs
gathers its inputs; one that is divided by inputs scatters the sum of its outputs. Both together send as
much as one sum over all positions. The backward pass gathers the inputs again, so that they are not kept.
Source: Korthikanti et al., "Reducing activation recomputation in large transformer models", 2022, section 4.2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.nn import functional

from dnntrain.protocols import SequenceShard

#: The positions are the second dimension of features [n, length, width].
_POSITIONS = Shard(1)


def make_sequence_shard(mesh: DeviceMesh) -> SequenceShard:
    """Return the functions by which a model enters and leaves the sharded part."""

    def split(features: Tensor) -> Tensor:
        full = DTensor.from_local(features, mesh, [Replicate()], run_check=False)
        return full.redistribute(placements=[_POSITIONS]).to_local().contiguous()

    # What follows computes the same on every rank, and so does its backward pass.
    return SequenceShard(split, lambda shard: gather_positions(shard, mesh, Replicate()))


def gather_positions(shard: Tensor, mesh: DeviceMesh, gradient: Placement) -> Tensor:
    """Return the features of all positions from those of each rank.

    gradient  form of the gradient on each rank: Partial, of which the ranks have the summands, or Replicate
    """
    sharded = DTensor.from_local(shard, mesh, [_POSITIONS], run_check=False)
    return sharded.redistribute(placements=[Replicate()]).to_local(grad_placements=[gradient])


def scatter_sum(summand: Tensor, mesh: DeviceMesh) -> Tensor:
    """Return this rank's positions of the sum of `summand` over ranks."""
    partial = DTensor.from_local(summand, mesh, [Partial()], run_check=False)
    return partial.redistribute(placements=[_POSITIONS]).to_local()


def sum_gradient(parameter: Tensor, mesh: DeviceMesh) -> Tensor:
    """Return `parameter`, equal on the ranks, whose gradient is summed over the positions of all ranks."""
    full = DTensor.from_local(parameter, mesh, [Replicate()], run_check=False)
    return full.to_local(grad_placements=[Partial()])


def drop_positions(features: Tensor, probability: float, mesh: DeviceMesh) -> Tensor:
    """Drop values of this rank's positions, by the mask that would drop those of all positions."""
    n, length, *rest = features.shape
    ones = features.new_ones(n, length * mesh.size(), *rest)
    mask = functional.dropout(ones, probability)
    return features * mask.narrow(1, mesh.get_local_rank() * length, length)


def multiply_gathered(shard: Tensor, weight: Tensor, bias: Tensor | None, mesh: DeviceMesh) -> Tensor:
    """Return inputs @ weight.T + bias, with the inputs of all positions.

    shard   this rank's positions of the inputs
    weight  [outputs, width], this rank's outputs
    """
    device = shard.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        shard, weight, bias = shard.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    result: Tensor = _GatheredProduct.apply(shard, weight, bias, mesh)
    return result


class _GatheredProduct(torch.autograd.Function):
    """A linear layer over gathered inputs, of which only this rank's positions are kept."""

    @staticmethod
    def forward(ctx: Any, shard: Tensor, weight: Tensor, bias: Tensor | None, mesh: DeviceMesh) -> Tensor:
        ctx.save_for_backward(shard, weight)
        ctx.mesh = mesh
        return functional.linear(gather_positions(shard, mesh, Replicate()), weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        shard, weight = ctx.saved_tensors
        (gradient,) = gradients
        rows = gradient.flatten(0, -2)
        needs_inputs, needs_weight, needs_bias, _ = ctx.needs_input_grad
        weight_gradient = None
        if needs_weight:
            weight_gradient = rows.T @ gather_positions(shard, ctx.mesh, Replicate()).flatten(0, -2)
        input_gradient = scatter_sum(gradient @ weight, ctx.mesh) if needs_inputs else None
        return input_gradient, weight_gradient, rows.sum(0) if needs_bias else None, None
