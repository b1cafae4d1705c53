"""Tensor parallelism: divide the width of layers by the plan of the model.

`nn/partition.py` has the plans. Each layer computes on plain local tensors with its own forward; the
sums over ranks are DTensor redistributions. Parameters are DTensors, so that optimizers, averages and
checkpoints see full shapes. Source: Shoeybi et al., "Megatron-LM", 2019, section 3.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.func import functional_call

from dnntrain.distributed.sequence_parallel import (
    drop_positions,
    gather_positions,
    make_sequence_shard,
    multiply_gathered,
    scatter_sum,
    sum_gradient,
)
from dnntrain.errors import ConfigError
from dnntrain.nn.language_module import find_language_module
from dnntrain.nn.partition import count_stacked_outputs, get_divisible_sizes, get_parallel_plan
from dnntrain.protocols import VocabularyShard
from dnntrain.utils._torch_private import make_strided_shard
from dnntrain.utils.dtensor import local_shard


def apply_tensor_parallel(model: nn.Module, mesh: DeviceMesh, sequence: bool = False) -> None:
    """Divide the layers in the model's plan over `mesh` in place, and the positions between them if `sequence`.

    `mesh` has one dimension. Raises ConfigError if it does not divide the width of a layer.
    """
    degree = mesh.size()
    for name, size in get_divisible_sizes(model):
        if size % degree:
            raise ConfigError(
                f"parallel.tp={degree} does not divide {size}, the width of {name}",
                f"use parallel.tp={math.gcd(degree, size)}",
            )
    language_module = find_language_module(model)
    if sequence and language_module is not None:
        language_module.sequence = make_sequence_shard(mesh)
    for name, style in (get_parallel_plan(model, degree, sequence) or {}).items():
        layer = model.get_submodule(name)
        _parallelize_layer(layer, style, mesh, sequence)
        if style == "vocabulary" and language_module is not None:
            language_module.head_shard = _make_vocabulary_shard(layer, mesh)


def _parallelize_layer(module: nn.Module, style: str, mesh: DeviceMesh, sequence: bool) -> None:
    kind = style.partition("/")[0]
    if kind == "positions":
        module.forward = _make_position_forward(module, _make_shell(module, 1, bias=True), mesh)
        return
    shell = _make_shell(module, mesh.size() if kind == "features" else 1, bias=kind != "rows")
    # torch's placement for a dimension that is sharded twice: interleaved parts, here of query, key and value.
    stacked = count_stacked_outputs(style)
    outputs: Placement = Shard(0) if stacked == 1 else make_strided_shard(0, stacked)
    for name, parameter in list(module.named_parameters(recurse=False)):
        placement: Placement = outputs
        if kind == "rows":
            placement = Shard(1) if name == "weight" else Replicate()
        dtensor = distribute_tensor(parameter.detach(), mesh, [placement], src_data_rank=None)
        module.register_parameter(name, nn.Parameter(dtensor, requires_grad=parameter.requires_grad))
    for name, buffer in list(module.named_buffers(recurse=False)):
        if buffer.ndim:
            persistent = name not in module._non_persistent_buffers_set
            dtensor = distribute_tensor(buffer, mesh, [outputs], src_data_rank=None)
            module.register_buffer(name, dtensor, persistent=persistent)
    make_forward = {
        "columns": _make_gathered_forward if sequence else _make_column_forward,
        "rows": _make_scattered_forward if sequence else _make_row_forward,
        "features": _make_feature_forward,
        "vocabulary": _make_vocabulary_forward,
    }[kind]
    module.forward = make_forward(module, shell, mesh)


def _make_column_forward(module: nn.Module, shell: nn.Module, mesh: DeviceMesh) -> Callable[[Tensor], Tensor]:
    def forward(inputs: Tensor) -> Tensor:
        # Each rank computes the gradient of the input from its outputs; the backward pass sums them.
        full_inputs = DTensor.from_local(inputs, mesh, [Replicate()], run_check=False)
        result: Tensor = functional_call(
            shell, _get_local_tensors(module), (full_inputs.to_local(grad_placements=[Partial()]),)
        )
        return result

    return forward


def _make_gathered_forward(module: nn.Module, shell: nn.Module, mesh: DeviceMesh) -> Callable[[Tensor], Tensor]:
    """Return a column forward that reads this rank's positions."""

    def multiply(shard: Tensor) -> Tensor:
        tensors = _get_local_tensors(module)
        return multiply_gathered(shard, tensors["weight"], tensors.get("bias"), mesh)

    def forward(shard: Tensor) -> Tensor:
        full_inputs = gather_positions(shard, mesh, Partial())
        result: Tensor = functional_call(shell, _get_local_tensors(module), (full_inputs,))
        return result

    return multiply if type(module) is nn.Linear else forward


def _make_vocabulary_forward(module: nn.Module, shell: nn.Module, mesh: DeviceMesh) -> Callable[[Tensor], Tensor]:
    compute = _make_column_forward(module, shell, mesh)

    def forward(inputs: Tensor) -> Tensor:
        shard = DTensor.from_local(compute(inputs), mesh, [Shard(inputs.ndim - 1)], run_check=False)
        result: Tensor = shard.redistribute(placements=[Replicate()]).to_local(grad_placements=[Replicate()])
        return result

    return forward


def _make_vocabulary_shard(layer: nn.Module, mesh: DeviceMesh) -> VocabularyShard:
    """Return this rank's tokens of `layer`, which is divided by outputs over `mesh`."""
    group = mesh.get_group()

    def reduce(tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        result = tensor.detach().clone(memory_format=torch.contiguous_format)
        if result.numel():  # ranks that share the vocabulary have the same examples
            dist.all_reduce(result, operation, group)
        return result

    return VocabularyShard(
        first=mesh.get_local_rank() * len(local_shard(layer.get_parameter("weight"))),
        get_weight=lambda: _get_local_tensors(layer)["weight"],
        sum=lambda tensor: reduce(tensor, dist.ReduceOp.SUM),
        max=lambda tensor: reduce(tensor, dist.ReduceOp.MAX),
    )


def _make_row_forward(module: nn.Module, shell: nn.Module, mesh: DeviceMesh) -> Callable[[Tensor], Tensor]:
    spatial = module.get_parameter("weight").ndim - 2

    def forward(inputs: Tensor) -> Tensor:
        tensors = _get_local_tensors(module)
        bias = tensors.pop("bias", None)
        partial_output: Tensor = functional_call(shell, tensors, (inputs,))
        total = DTensor.from_local(partial_output, mesh, [Partial()], run_check=False).redistribute(
            placements=[Replicate()]
        )
        result = total.to_local(grad_placements=[Replicate()])
        return result if bias is None else result + bias.view(-1, *[1] * spatial)

    return forward


def _make_scattered_forward(module: nn.Module, shell: nn.Module, mesh: DeviceMesh) -> Callable[[Tensor], Tensor]:
    """Return a row forward that returns this rank's positions."""

    def forward(inputs: Tensor) -> Tensor:
        tensors = _get_local_tensors(module)
        bias = tensors.pop("bias", None)
        partial_output: Tensor = functional_call(shell, tensors, (inputs,))
        result = scatter_sum(partial_output, mesh)
        return result if bias is None else result + sum_gradient(bias, mesh)

    return forward


def _make_position_forward(module: nn.Module, shell: nn.Module, mesh: DeviceMesh) -> Callable[[Tensor], Tensor]:
    if isinstance(module, nn.Dropout):
        return lambda features: drop_positions(features, module.p, mesh) if module.training else features

    def forward(features: Tensor) -> Tensor:
        tensors = {name: sum_gradient(tensor, mesh) for name, tensor in _get_local_tensors(module).items()}
        result: Tensor = functional_call(shell, tensors, (features,))
        return result

    return forward


def _make_feature_forward(module: nn.Module, shell: nn.Module, mesh: DeviceMesh) -> Callable[[Tensor], Tensor]:
    def forward(inputs: Tensor) -> Tensor:
        shell.training = module.training
        result: Tensor = functional_call(shell, _get_local_tensors(module), (inputs,))
        return result

    return forward


def _get_local_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the local shards of parameters and buffers.

    Gradients flow to the parameters.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in module._parameters.items():
        if tensor is not None:
            tensors[name] = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    # Running statistics are updated in place, so their memory is needed, not a view of autograd.
    return tensors | {name: local_shard(buffer) for name, buffer in module._buffers.items() if buffer is not None}


def _make_shell(module: nn.Module, num_parts: int, bias: bool) -> nn.Module:
    """Return a copy of `module` without weights and hooks.

    Group norm and batch norm get one of `num_parts` equal parts of their groups and channels.
    """
    shell = copy.copy(module)
    for name, value in vars(shell).items():
        if name.endswith("_hooks"):
            setattr(shell, name, type(value)())
    shell._parameters = {
        name: None if value is None else _make_empty(value) for name, value in module._parameters.items()
    }
    shell._buffers = {name: None if value is None else _make_empty(value) for name, value in module._buffers.items()}
    if isinstance(shell, nn.GroupNorm):
        shell.num_groups //= num_parts
        shell.num_channels //= num_parts
    elif isinstance(shell, nn.modules.batchnorm._BatchNorm):
        shell.num_features //= num_parts
    if not bias:
        shell._parameters["bias"] = None
    return shell


def _make_empty(tensor: Tensor) -> Any:
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).requires_grad_(tensor.requires_grad)
