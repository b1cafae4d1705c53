"""Read, gather and fill tensors that may be sharded over ranks (DTensor)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dnntrain.utils._torch_private import compute_local_offset, get_local_tensor, is_strided_shard


def is_sharded(tensor: Any) -> bool:
    """Return whether `tensor` is a DTensor, of which this rank may hold a shard only."""
    return isinstance(tensor, Tensor) and hasattr(tensor, "device_mesh")


def local_shard(tensor: Tensor) -> Tensor:
    """Return the local shard, which shares memory with `tensor`.

    A plain tensor is returned unchanged.
    """
    if not is_sharded(tensor):
        return tensor
    return get_local_tensor(tensor)


def gather_full(tensor: Tensor) -> Tensor:
    """Return the full tensor as a plain one.

    All ranks of the mesh must call this in the same order.
    """
    if not is_sharded(tensor):
        return tensor
    if _is_nested(tensor):
        return _gather_nested(tensor)
    if _is_interleaved(tensor):
        return _gather_interleaved(tensor)
    whole: Tensor = tensor.detach().full_tensor()  # type: ignore[attr-defined]
    return whole


def get_local_chunk(tensor: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return (local shard, its offset in the full tensor).

    A shard that is not one block (query, key and value of a tensor-parallel layer) is gathered
    first. Every rank then has the full tensor.
    """
    if not is_sharded(tensor):
        return tensor, (0,) * tensor.ndim
    sharded: Any = tensor
    if not all(placement.is_replicate() or placement.is_shard() for placement in sharded.placements):
        return gather_full(tensor), (0,) * tensor.ndim
    return local_shard(tensor), compute_local_offset(sharded)


def distribute_like(value: Any, reference: Tensor) -> Any:
    """Return `value` with the device, memory format and sharding of `reference`.

    Every rank must hold the full `value`; no communication takes place. The memory format is copied
    if the shapes agree. A value that is not a tensor is returned unchanged.
    """
    if not isinstance(value, Tensor):
        return value
    if value.shape != reference.shape:
        return value.to(reference.device)
    if not is_sharded(reference):
        return torch.empty_like(reference.detach(), dtype=value.dtype).copy_(value)
    # DTensor places it on the device of the mesh, but a shard that is offloaded is on the host.
    return _distribute(value, reference).to(local_shard(reference).device)


def shard_of(value: Tensor, reference: Tensor) -> Tensor:
    """Return this rank's shard of `value`, cut as `reference` is.

    Every rank must hold the full `value`; no communication takes place.
    """
    return local_shard(_distribute(value, reference)) if is_sharded(reference) else value


def fill_tensor(target: Tensor, value: Tensor) -> None:
    """Copy the full tensor `value`, or this rank's shard of it, into `target`.

    Raises ValueError if the shapes differ.
    """
    if target.shape != value.shape:
        raise ValueError(f"a tensor of shape {list(value.shape)} does not fit one of {list(target.shape)}")
    with torch.no_grad():
        local_shard(target).copy_(shard_of(value.to(target.device), target))


def fill_tensors(targets: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Fill each of `targets` with the value of its name.

    Raises KeyError for the first missing name.
    """
    for name, target in targets.items():
        fill_tensor(target, values[name])


def _distribute(value: Tensor, reference: Any) -> Tensor:
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    mesh, placements = reference.device_mesh, reference.placements
    if not _is_nested(reference):
        return distribute_tensor(value, mesh, placements, src_data_rank=None)
    tp_shard = local_shard(distribute_tensor(value, mesh["tp"], [placements[-1]], src_data_rank=None))
    shard = local_shard(distribute_tensor(tp_shard, mesh["shard"], [Shard(0)], src_data_rank=None))
    return DTensor.from_local(shard, mesh, placements, run_check=False, shape=value.shape, stride=value.stride())


def _is_nested(tensor: Any) -> bool:
    """Return whether FSDP has sharded an interleaved shard again along its dimension.

    Such a shard holds query, key and value of a tensor-parallel layer. DTensor cannot derive that
    order from the placements, so that such a tensor, a bias, is gathered in two steps.
    """
    *other_placements, last_placement = tensor.placements
    return is_strided_shard(last_placement) and any(
        getattr(placement, "dim", None) == last_placement.dim for placement in other_placements
    )


def _is_interleaved(tensor: Any) -> bool:
    """Return whether a dimension has interleaved shards, and is not sharded again."""
    dims = [getattr(placement, "dim", None) for placement in tensor.placements]
    return any(is_strided_shard(placement) and dims.count(placement.dim) == 1 for placement in tensor.placements)


def _gather_interleaved(tensor: Any) -> Tensor:
    """Return the full tensor of one with an interleaved shard.

    The stacked blocks become a dimension of their own, along which the tensor is whole. Plain shards
    then describe it: torch 2.11 does not gather interleaved ones.
    """
    from torch.distributed.tensor import DTensor, Shard

    strided = next(placement for placement in tensor.placements if is_strided_shard(placement))
    dim, blocks = strided.dim, strided.split_factor
    placements = [
        Shard(placement.dim + (placement.dim >= dim)) if hasattr(placement, "dim") else placement
        for placement in tensor.placements
    ]
    shard = local_shard(tensor).detach()

    def split_blocks(shape: torch.Size) -> torch.Size:
        return torch.Size([*shape[:dim], blocks, shape[dim] // blocks, *shape[dim + 1 :]])

    shape = split_blocks(tensor.shape)
    stacked = DTensor.from_local(
        shard.reshape(split_blocks(shard.shape)),
        tensor.device_mesh,
        placements,
        run_check=False,
        shape=shape,
        stride=torch.empty(shape, device="meta").stride(),
    )
    whole: Tensor = stacked.full_tensor().flatten(dim, dim + 1)
    return whole


def _gather_nested(tensor: Any) -> Tensor:
    from torch.distributed.tensor import DTensor, Shard

    mesh = tensor.device_mesh
    size = torch.Size([len(tensor) // mesh["tp"].size(), *tensor.shape[1:]])
    shard = local_shard(tensor).detach()
    stacked = DTensor.from_local(shard, mesh["shard"], [Shard(0)], run_check=False, shape=size, stride=shard.stride())
    tp_shard = stacked.full_tensor()
    return _gather_interleaved(DTensor.from_local(tp_shard, mesh["tp"], [tensor.placements[-1]], run_check=False))
