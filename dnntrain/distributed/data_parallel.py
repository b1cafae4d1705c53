"""Apply data parallelism to a model: DDP or FSDP2; and activation checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from dnntrain.distributed.mesh import Mesh
from dnntrain.distributed.parallel_dims import ParallelConfig
from dnntrain.nn.language_module import find_language_module
from dnntrain.utils._torch_private import fix_gradient_buckets, is_strided_shard, make_ddp_buffer_options
from dnntrain.utils.dtensor import local_shard

#: Operators whose results selective activation checkpointing saves, because they are expensive.
_SAVED_OPERATORS = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.convolution.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
}


def wrap_ddp(model: nn.Module, layout: ParallelConfig) -> nn.Module:
    """Return `model` in DistributedDataParallel over all ranks.

    Buffers differ between ranks until `broadcast_buffers`.
    """
    ddp_model = _FixedBucketDdp(
        model,
        bucket_cap_mb=layout.bucket_size_mb,
        gradient_as_bucket_view=True,
        static_graph=layout.static_graph,
        **make_ddp_buffer_options(),
    )
    if layout.grad_compression == "powersgd":
        from dnntrain.distributed.powersgd import register_powersgd

        register_powersgd(ddp_model)
    elif layout.grad_compression != "none":
        ddp_model.register_comm_hook(None, _get_compress_hook(layout.grad_compression))
    return ddp_model


class _FixedBucketDdp(nn.parallel.DistributedDataParallel):
    """DDP with fixed gradient buckets, in which the last parameters come first.

    torch rearranges the buckets after the first step of a process. The position of a gradient decides
    the order in which three or more ranks are summed, so the first step of a resumed run would round
    differently than the same step of an uninterrupted run.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        fix_gradient_buckets(self)

    def _build_params_for_reducer(self) -> tuple[list[nn.Parameter], list[bool]]:
        parameters, sparse = super()._build_params_for_reducer()  # type: ignore[no-untyped-call]
        return parameters[::-1], sparse[::-1]


def _get_compress_hook(compress: str) -> Callable[..., Any]:
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

    hooks: dict[str, Callable[..., Any]] = {
        "bf16": default_hooks.bf16_compress_hook,
        "fp16": default_hooks.fp16_compress_hook,
    }
    return hooks[compress]


def apply_fsdp(model: nn.Module, units: Sequence[nn.Module], layout: ParallelConfig, mesh: Mesh) -> nn.Module:
    """Apply FSDP2 to `model` in place and return it.

    Each of `units` gathers its weights when it runs. The other weights belong to `model` itself.
    """
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if layout.param_dtype == "bf16" else None, reduce_dtype=torch.float32
    )
    offload = CPUOffloadPolicy() if layout.cpu_offload else OffloadPolicy()
    language_module = find_language_module(model)
    keeps_root = language_module is not None and language_module.defers_logits  # the loss needs the last layer
    if language_module is not None:
        language_module.copies_outputs = True
    for module in (*units, model):
        fully_shard(
            module,
            mesh=mesh.shards,
            reshard_after_forward=layout.reshard_after_forward and not (keeps_root and module is model),
            shard_placement_fn=_shard_dimension,
            mp_policy=policy,
            offload_policy=offload,
        )
    return model


def _shard_dimension(parameter: nn.Parameter) -> Shard | None:
    """Return `Shard(1)` if the first dimension is interleaved already, else None.

    Stacked outputs (query, key, value) are sharded along the first dimension by tensor parallelism.
    """
    interleaved = isinstance(parameter, DTensor) and any(is_strided_shard(item) for item in parameter.placements)
    return Shard(1) if interleaved and parameter.ndim > 1 else None


def reshard_modules(run_modules: Sequence[nn.Module]) -> None:
    """Free the gathered weights of `run_modules`.

    The next forward pass gathers the current shards again.
    """
    for root in run_modules:
        for module in root.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


@contextmanager
def _disable_gradient_sync(model: FSDPModule) -> Iterator[None]:
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def get_no_sync(model: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """Return a context in which gradients accumulate without communication."""
    if isinstance(model, FSDPModule):
        return partial(_disable_gradient_sync, model)
    no_sync: Callable[[], AbstractContextManager[None]] = getattr(model, "no_sync", nullcontext)
    return no_sync


def broadcast_buffers(model: nn.Module, mesh: Mesh) -> None:
    """Copy the buffers (running statistics) of the first data rank to every rank.

    The buffers of the first data rank never depend on the other ranks.
    """
    group = mesh.data.get_group()
    for buffer in model.buffers():
        dist.broadcast(local_shard(buffer), group=group, group_src=0)


def checkpoint_activations(units: Sequence[nn.Module], kind: Literal["none", "selective", "full"]) -> None:
    """Recompute activations of `units` in the backward pass, not saving them.

    "selective" saves the results of matrix products, convolutions and attention. Parameter names and
    random numbers do not change, and the running statistics of batch norm are updated only once.
    Source: Chen et al., "Training deep nets with sublinear memory cost", 2016.
    """
    for unit in units if kind != "none" else ():
        unit.forward = _make_checkpointed_forward(unit, kind)


def _make_checkpointed_forward(unit: nn.Module, kind: str) -> Callable[..., Any]:
    inner = unit.forward
    norms = [module for module in unit.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]

    def make_contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        if kind == "full":
            return nullcontext(), _freeze_statistics(norms)
        forward_context, recompute_context = create_selective_checkpoint_contexts(_select_policy)  # type: ignore[no-untyped-call]
        return forward_context, _enter_both(_freeze_statistics(norms), recompute_context)

    def forward(*inputs: Tensor) -> Any:
        if not (unit.training and torch.is_grad_enabled()):
            return inner(*inputs)
        return checkpoint(inner, *inputs, use_reentrant=False, context_fn=make_contexts)

    return forward


def _select_policy(context: Any, operator: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in _SAVED_OPERATORS else CheckpointPolicy.PREFER_RECOMPUTE


@contextmanager
def _enter_both(first: AbstractContextManager[Any], second: AbstractContextManager[Any]) -> Iterator[None]:
    with first, second:
        yield


@contextmanager
def _freeze_statistics(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Keep running statistics of batch norm unchanged in training mode."""
    saved_buffers = [[(buffer, buffer.clone()) for buffer in norm.buffers()] for norm in norms]
    try:
        yield
    finally:
        for buffers in saved_buffers:
            for buffer, original in buffers:
                buffer.copy_(original)
