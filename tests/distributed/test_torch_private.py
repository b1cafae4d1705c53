"""The private names of torch that are used exist in the installed version, or their absence is named with the version."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor, Shard

from dnntrain.distributed.fake_group import fake_process_group
from dnntrain.distributed.mesh import Mesh
from dnntrain.distributed.parallel_dims import ParallelDims
from dnntrain.utils import _torch_private as private


def test_gradient_buckets_are_laid_out_at_once() -> None:
    with fake_process_group(2, 0):
        model = nn.Linear(3, 2)
        ddp_model = nn.parallel.DistributedDataParallel(model, **private.make_ddp_buffer_options())
        private.fix_gradient_buckets(ddp_model)
        assert sum(len(bucket) for bucket in private.get_gradient_buckets(ddp_model)) == 8


def test_the_local_part_shares_memory_and_knows_its_place() -> None:
    with fake_process_group(2, 1):
        mesh = Mesh(ParallelDims(shard=2), "cpu")
        part = torch.arange(3.0)
        whole = DTensor.from_local(part, mesh.data, [Shard(0)], run_check=False)
        assert private.get_local_tensor(whole).data_ptr() == part.data_ptr()
        assert private.compute_local_offset(whole) == (3,)


def test_a_strided_shard_is_told_from_a_plain_one() -> None:
    assert private.is_strided_shard(private.make_strided_shard(0, 3))
    assert not private.is_strided_shard(Shard(0))


def test_a_missing_name_is_reported_with_the_version_of_torch() -> None:
    with pytest.raises(RuntimeError, match=f"torch {torch.__version__} does not have Linear.gone".replace("+", r"\+")):
        private._get_private(nn.Linear(1, 1), "gone")
