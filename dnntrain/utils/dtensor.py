"""Tensors that may be in parts on several ranks (DTensor): the part that is here, and the whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dnntrain.utils._torch_private import compute_local_offset, get_local_tensor


def is_sharded(tensor: Any) -> bool:
    """True for a DTensor, of which this rank may hold a part only."""
    return isinstance(tensor, Tensor) and hasattr(tensor, "device_mesh")


def local_shard(tensor: Tensor) -> Tensor:
    """The part that this rank holds, sharing its memory; a plain tensor is returned as it is."""
    if not is_sharded(tensor):
        return tensor
    return get_local_tensor(tensor)


def gather_full(tensor: Tensor) -> Tensor:
    """The whole tensor, plain. All ranks of its mesh must ask for it, in the same order."""
    if not is_sharded(tensor):
        return tensor
    if _is_nested(tensor):
        return _gather_nested(tensor)
    whole: Tensor = tensor.detach().full_tensor()  # type: ignore[attr-defined]
    return whole


def get_local_chunk(tensor: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """(the part that this rank holds, where it begins in the whole).

    Parts that are not one block (query, key and value of a tensor-parallel layer) are gathered first: then every rank has the whole.
    """
    if not is_sharded(tensor):
        return tensor, (0,) * tensor.ndim
    sharded: Any = tensor
    if not all(placement.is_replicate() or placement.is_shard() for placement in sharded.placements):
        return gather_full(tensor), (0,) * tensor.ndim
    return local_shard(tensor), compute_local_offset(sharded)


def distribute_like(value: Any, reference: Tensor) -> Any:
    """`value` placed as `model`: on its device, in its memory format where shapes agree, and cut into the same parts.

    Needs no communication: every rank holds the whole `value`. What is no tensor is returned as it is.
    """
    if not isinstance(value, Tensor):
        return value
    if value.shape != reference.shape:
        return value.to(reference.device)
    if not is_sharded(reference):
        return torch.empty_like(reference.detach(), dtype=value.dtype).copy_(value)
    return _distribute(value.to(reference.device), reference)


def shard_of(value: Tensor, reference: Tensor) -> Tensor:
    """Of the whole tensor `value`, which every rank holds, the part that this rank has of `model`. Needs no communication."""
    return local_shard(_distribute(value, reference)) if is_sharded(reference) else value


def fill_tensor(target: Tensor, value: Tensor) -> None:
    """Copies the whole tensor `value` into `target`, or this rank's part of it. Raises ValueError where shapes differ."""
    if target.shape != value.shape:
        raise ValueError(f"a tensor of shape {list(value.shape)} does not fit one of {list(target.shape)}")
    with torch.no_grad():
        local_shard(target).copy_(shard_of(value.to(target.device), target))


def fill_tensors(targets: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Fills every one of `targets` from the value of its name. Raises KeyError naming the first one that is missing."""
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
    """True for interleaved parts (query, key, value of a tensor-parallel layer) that FSDP has cut again along the same dimension.

    DTensor cannot tell that order from its placements, so that such a tensor, a bias, is put together step by step.
    """
    *other_placements, last_placement = tensor.placements
    return (
        bool(other_placements)
        and hasattr(last_placement, "split_factor")
        and any(getattr(placement, "dim", None) == last_placement.dim for placement in other_placements)
    )


def _gather_nested(tensor: Any) -> Tensor:
    from torch.distributed.tensor import DTensor, Shard

    mesh = tensor.device_mesh
    size = torch.Size([len(tensor) // mesh["tp"].size(), *tensor.shape[1:]])
    shard = local_shard(tensor).detach()
    stacked = DTensor.from_local(shard, mesh["shard"], [Shard(0)], run_check=False, shape=size, stride=shard.stride())
    tp_shard = stacked.full_tensor()
    whole: Tensor = DTensor.from_local(tp_shard, mesh["tp"], [tensor.placements[-1]], run_check=False).full_tensor()
    return whole
