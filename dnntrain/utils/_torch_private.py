"""Wrap the private functions of torch that dnntrain needs.

A new version of torch must be checked against this module only. Tested with torch 2.11 and 2.14. A
name that a version lacks is reported as such, with the versions that have it. This file is below
`distributed/` because `utils/dtensor.py` needs it; torch's distributed modules are imported where
they are used, since that takes time.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Placement
    from torch.distributed.tensor.placement_types import _StridedShard

#: The versions of torch whose private names are tested.
_TESTED_VERSIONS = "2.11 to 2.14"


def get_local_tensor(dtensor: Any) -> Tensor:
    """Return the local shard of a DTensor, sharing its memory.

    `to_local()` returns a view that depends on the version of torch.
    """
    tensor: Tensor = _get_private(dtensor, "_local_tensor")
    return tensor


def make_strided_shard(dimension: int, split_factor: int) -> _StridedShard:
    """Return the placement of a dimension with interleaved shards.

    It has `split_factor` stacked blocks, each of which is sharded.
    """
    from torch.distributed.tensor.placement_types import _StridedShard

    return _StridedShard(dimension, split_factor=split_factor)


def is_strided_shard(placement: Placement) -> bool:
    """Return whether `placement` is one of `make_strided_shard`."""
    from torch.distributed.tensor.placement_types import _StridedShard

    return isinstance(placement, _StridedShard)


def compute_local_offset(dtensor: DTensor) -> tuple[int, ...]:
    """Return the offset of this rank's shard in the full tensor."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(dtensor.shape, dtensor.device_mesh, dtensor.placements)
    return tuple(offset)


def add_lerp_rule() -> None:
    """Let DTensors compute `torch._foreach_lerp`, for which torch 2.11 has no rule."""
    from torch.distributed.tensor import DTensor

    propagator = _get_private(DTensor, "_op_dispatcher").sharding_propagator
    operator = torch.ops.aten._foreach_lerp.Scalar
    rules = ("op_strategy_funcs", "op_single_dim_strategy_funcs")  # the second in newer versions only
    if any(operator in getattr(propagator, name, ()) for name in rules):
        return
    from torch.distributed.tensor._op_schema import RuntimeSchemaInfo
    from torch.distributed.tensor._ops import _pointwise_ops

    rule = _get_private(_pointwise_ops, "list_pointwise_strategy")
    propagator.register_op_strategy(operator, rule, RuntimeSchemaInfo(needs_pytree=True))


def release_groups(mesh: DeviceMesh) -> None:
    """Let `mesh`, a root mesh whose process groups are destroyed, hold them no longer.

    DTensor's caches of operators keep every mesh for the life of the process.
    """
    mesh.__dict__.get("_pg_registry", {}).clear()


def fix_gradient_buckets(ddp_model: nn.parallel.DistributedDataParallel) -> None:
    """Let DDP lay out its gradient buckets now rather than after the first step.

    The buckets have the order of the parameters that DDP was given.
    """
    _get_private(ddp_model.reducer, "_push_all_rebuilt_params")()
    _get_private(ddp_model.reducer, "_rebuild_buckets")()


def get_gradient_buckets(ddp_model: Any) -> list[Tensor]:
    """Return a buffer of zeros for each of DDP's gradient buckets."""
    return [bucket.buffer() for bucket in _get_private(ddp_model.reducer, "_get_zeros_like_grad_buckets")()]


def make_ddp_buffer_options() -> dict[str, bool]:
    """Return the option by which DDP sends buffers at build time only.

    Without it, DDP sends them before each forward pass. Newer versions of torch rename it.
    """
    parameters = inspect.signature(nn.parallel.DistributedDataParallel.__init__).parameters
    name = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in parameters)
    return {name: False}


def _get_private(holder: Any, name: str) -> Any:
    """Return the attribute `name`.

    Raises RuntimeError with the version of torch if it does not exist.
    """
    try:
        return getattr(holder, name)
    except AttributeError:
        raise RuntimeError(
            f"torch {torch.__version__} does not have {type(holder).__name__}.{name}, which dnntrain needs; "
            f"it is tested with torch {_TESTED_VERSIONS}"
        ) from None
