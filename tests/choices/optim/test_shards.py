"""Choices that need no whole parameter step shards (DTensor) as they step plain tensors, two meshes beside each other included."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from optimizing import network, optimize
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.config.registry import load_registry
from dnntrain.protocols import LayoutRequirement


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DeviceMesh, DeviceMesh]]:
    """One process as a mesh of one dimension and as one of two."""
    store = tmp_path_factory.mktemp("store") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,)), init_device_mesh("cpu", (1, 1))
    finally:
        dist.destroy_process_group()


def sharded(model: nn.Module, meshes: tuple[DeviceMesh, DeviceMesh]) -> nn.Module:
    """Weights as shards of the first mesh, biases as shards of the second, the norm plain."""
    line, grid = meshes
    for name, parameter in list(model.named_parameters()):
        if name.startswith("1."):
            continue
        mesh, placements = (line, [Shard(0)]) if name.endswith("weight") else (grid, [Replicate(), Shard(0)])
        module, _, last = name.rpartition(".")
        tensor = distribute_tensor(parameter.detach(), mesh, placements)
        setattr(model.get_submodule(module), last, nn.Parameter(tensor))
    return model


#: Choices that need whole parameters.
WHOLE = {"adafactor", "adamw_8bit"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(load_registry().list_names("optim")) - {"custom"}))
def test_a_choice_needs_whole_parameters_or_nothing(name: str) -> None:
    needs = decode_config(compose([f"optim={name}"])).optim.needs
    assert needs == ({LayoutRequirement.WHOLE_PARAMETER} if name in WHOLE else frozenset())


@pytest.mark.sampled
@pytest.mark.parametrize("name", sorted(set(load_registry().list_names("optim")) - WHOLE - {"custom"}))
def test_shards_are_stepped_as_plain_tensors(name: str, meshes: tuple[DeviceMesh, DeviceMesh]) -> None:
    choice = decode_config(compose([f"optim={name}", "optim.weight_decay=0.1", "optim.layer_decay=0.5"])).optim
    plain, shards = network(), sharded(network(), meshes)
    optimize(plain, choice.build(plain), 3)
    optimize(shards, choice.build(shards), 3)
    for expected, parameter in zip(plain.parameters(), shards.parameters(), strict=True):
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        torch.testing.assert_close(whole, expected)
