"""The device mesh, and the collectives of its ranks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate

from dnntrain.distributed.collectives import remember_mesh
from dnntrain.distributed.parallel_dims import MESH_DIMS, ParallelDims
from dnntrain.utils.dtensor import local_shard

# When a tensor that is sharded twice along one dimension is saved, torch gathers it in two steps and warns each time.
logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)


class Mesh:
    """The device mesh pp × replicate × shard × tp over all ranks, and its submeshes."""

    def __init__(self, dims: ParallelDims, device_type: str) -> None:
        sizes = dims.sizes
        self.degrees = dims
        self.whole: DeviceMesh = init_device_mesh(device_type, sizes, mesh_dim_names=MESH_DIMS)
        remember_mesh(self.whole)

    @cached_property
    def data(self) -> DeviceMesh:
        """The ranks over which a batch is divided, as one dimension."""
        return self.whole["replicate", "shard"]._flatten("data")

    @property
    def shards(self) -> DeviceMesh:
        """The mesh of FSDP: replicate × shard if there are several replicas, else shard."""
        return self.whole["replicate", "shard"] if self.degrees.replicate > 1 else self.whole["shard"]

    @property
    def tensor(self) -> DeviceMesh:
        """The ranks of tensor parallelism, which share the width of layers."""
        return self.whole["tp"]

    @property
    def pipeline(self) -> DeviceMesh:
        """The ranks of the pipeline, which share the depth of the model."""
        return self.whole["pp"]


class MeshCollectives:
    """The collectives of a device mesh; implements `protocols.Collectives`."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._data = mesh.data

    @property
    def data_ranks(self) -> int:
        return self._mesh.degrees.data_ranks

    def data_sum(self, tensor: Tensor) -> Tensor:
        return sum_over_mesh(tensor, self._data)

    def data_max(self, tensor: Tensor) -> Tensor:
        maximum = tensor.detach().clone()
        dist.all_reduce(maximum, dist.ReduceOp.MAX, self._data.get_group())
        return maximum

    def sum_of_squares(self, tensors: Sequence[Tensor]) -> Tensor:
        tensors_by_groups: dict[tuple[dist.ProcessGroup, ...], list[Tensor]] = {}
        for tensor in tensors:
            tensors_by_groups.setdefault(_get_sharding_groups(tensor), []).append(local_shard(tensor))
        # Shards may be offloaded to the host, but the ranks communicate on their devices.
        device = local_shard(tensors[0]).device if tensors else None
        total = torch.zeros((), device=self._mesh.whole.device_type)
        for groups, local_tensors in tensors_by_groups.items():
            squares = torch.nn.utils.get_total_norm(local_tensors).float().square().to(total.device)
            for group in groups:
                dist.all_reduce(squares, group=group)
            total = total + squares
        if self._mesh.degrees.pp > 1:
            dist.all_reduce(total, group=self._mesh.pipeline.get_group())
        return total if device is None else total.to(device)

    @property
    def shard_ranks(self) -> int:
        return self._mesh.degrees.shard

    def shard(self, model: nn.Module, units: Sequence[nn.Module]) -> None:
        from torch.distributed.fsdp import fully_shard

        for module in (*units, model):
            fully_shard(module, mesh=self._mesh.whole["shard"], reshard_after_forward=True)


def sum_over_mesh(tensor: Tensor, mesh: DeviceMesh) -> Tensor:
    """Return the sum of `tensor` over a mesh of one dimension.

    The gradient of the result is summed over the mesh as well.
    """
    partial: list[Placement] = [Partial()]
    total = DTensor.from_local(tensor, mesh, partial, run_check=False).redistribute(placements=[Replicate()])
    return total.to_local(grad_placements=partial)


def _get_sharding_groups(tensor: Tensor) -> tuple[dist.ProcessGroup, ...]:
    """Return the groups over which a tensor is sharded; empty if it is full."""
    if not isinstance(tensor, DTensor):
        return ()
    mesh = tensor.device_mesh
    return tuple(
        mesh.get_group(dim)
        for dim, placement in enumerate(tensor.placements)
        if not placement.is_replicate() and mesh.size(dim) > 1
    )
