"""Shards that are offloaded to the host: state follows them there, and so does the norm of their gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from dnntrain.distributed.collectives import leave_process_group
from dnntrain.distributed.mesh import Mesh, MeshCollectives
from dnntrain.distributed.parallel_dims import ParallelDims
from dnntrain.utils.dtensor import distribute_like, local_shard


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Mesh(ParallelDims(), "cpu")
    leave_process_group()


def test_restored_state_is_on_the_device_of_the_shard_not_of_the_mesh(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    def move_to_mesh(value: torch.Tensor, *arguments: Any, **options: Any) -> DTensor:
        return distribute_tensor(torch.ones(value.shape), *arguments, **options)

    # The mesh computes on the CPU here; a device that computes nothing stands in for the host of offloaded shards.
    # As on a GPU, a value of any device is moved to the mesh.
    offloaded = move_to_mesh(torch.ones(4, 3), mesh.whole["shard"], [Shard(0)], src_data_rank=None).to("meta")
    monkeypatch.setattr(torch.distributed.tensor, "distribute_tensor", move_to_mesh)
    state = distribute_like(torch.ones(4, 3), offloaded)
    assert isinstance(state, DTensor)
    assert state.placements == (Shard(0),)
    assert local_shard(state).device.type == "meta"


def test_the_norm_is_on_the_device_of_the_gradients(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda tensors: torch.tensor(2.0))
    norm = MeshCollectives(mesh).sum_of_squares([torch.ones(4, device="meta")])
    assert norm.device.type == "meta"
