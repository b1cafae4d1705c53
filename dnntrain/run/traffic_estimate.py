"""The bytes that ranks exchange in a step, by layout."""

from __future__ import annotations

import math

from torch import nn

from dnntrain.distributed.comm_cost import (
    Traffic,
    all_reduce_traffic,
    gather_or_scatter_traffic,
)
from dnntrain.distributed.parallel_dims import ParallelConfig, uses_fsdp
from dnntrain.nn.partition import find_blocks, get_parallel_plan, get_sections
from dnntrain.nn.shape import ModelShape
from dnntrain.run.model_costs import FLOAT_BYTES, ModelCosts, build_costed_model, count_rank_examples, get_layout
from dnntrain.run.session import Session
from dnntrain.training.setup import build_unfilled_model


def get_section_bounds(session: Session, stages: tuple[int, ...]) -> list[tuple[int, int]]:
    bounds = session.plan.stage_bounds
    return [(bounds[stage], bounds[stage + 1]) for stage in stages] if bounds else [(0, 10**9)]


def estimate_data_traffic(session: Session, shard_size: int, units: int) -> list[Traffic]:
    """Return the traffic of gradients between replicas, and of weights and gradients of shards.

    `shard_size` numbers are on the rank, gathered in `units` groups.
    """
    dims, layout, micro_batches = session.plan.degrees, get_layout(session), session.plan.accumulation
    copies = dims.tp * dims.shard
    if not uses_fsdp(layout, dims):
        size = _compute_ddp_bytes(layout, session, shard_size)
        buckets = math.ceil(FLOAT_BYTES * shard_size / (layout.bucket_size_mb * 2**20))
        return (
            [all_reduce_traffic("gradients", size, buckets, dims.replicate, copies, "backward")]
            if dims.replicate > 1
            else []
        )
    traffic = []
    if dims.shard > 1:
        element = 2 if layout.param_dtype == "bf16" else FLOAT_BYTES
        passes = micro_batches * (2 if layout.reshard_after_forward else 1)
        total_size = shard_size * dims.shard
        shards = (dims.shard, dims.tp)
        traffic = [
            gather_or_scatter_traffic(
                "gathered weights", element * total_size * passes, units * passes, *shards, "computation"
            ),
            gather_or_scatter_traffic("scattered gradients", FLOAT_BYTES * total_size, units, *shards, "backward"),
        ]
    if dims.replicate > 1:
        traffic.append(
            all_reduce_traffic(
                "gradients between replicas", FLOAT_BYTES * shard_size, units, dims.replicate, copies, "backward"
            )
        )
    return traffic


def _compute_ddp_bytes(layout: ParallelConfig, session: Session, numbers: int) -> float:
    """Return the bytes of the gradients as they are sent.

    PowerSGD sends a matrix [n, m] of rank 1 as n + m numbers.
    """
    if layout.grad_compression in ("bf16", "fp16"):
        return 2 * numbers
    if layout.grad_compression == "none":
        return FLOAT_BYTES * numbers
    total = 0
    for parameter in build_unfilled_model(session.config, ModelShape.from_spec(session.data.spec)).parameters():
        rows = len(parameter) if parameter.ndim > 1 else 0
        sides = rows + parameter.numel() // rows if rows else 0
        # torch's hook leaves a gradient alone if compression would not halve it.
        total += sides if rows and 2 * sides < parameter.numel() else parameter.numel()
    return FLOAT_BYTES * total


def estimate_tensor_traffic(session: Session, costs: ModelCosts, stages: tuple[int, ...]) -> list[Traffic]:
    """Return the traffic of sharded layers.

    Each pair sums its outputs in the forward pass, and the gradients of its inputs in the backward
    pass. If ranks share the positions, a sum is a scatter and a gather of the same size, and the
    backward pass gathers the inputs again.
    """
    dims, plan = session.plan.degrees, session.plan
    if dims.tp == 1:
        return []
    model = build_costed_model(session, costs.hooks)
    layers = _list_own_layers(session, model, stages)
    names = {id(module): name for name, module in model.named_modules()}
    recomputes = session.config.train.activation_checkpointing != "none"
    recomputed_names = (
        {names[id(module)] for block in find_blocks(model) for module in block.modules()} if recomputes else set()
    )
    # Of a vocabulary, the loss sums the gradients of the inputs; otherwise the logits are gathered, too.
    gathers_logits = dims.pp > 1 or bool(costs.hooks.loss_terms or costs.hooks.feature_taps)
    sums: list[float] = []  # bytes of the tensors that are summed
    parts: list[float] = []  # bytes of the tensors that are gathered or scattered
    for name, division in layers.items():
        kind, is_recomputed = division.partition("/")[0], name in recomputed_names
        if kind == "rows":
            output_bytes = costs.sizes.outputs[name]
            parts += [output_bytes] * (2 + is_recomputed) if dims.sequence else []
            sums += [] if dims.sequence else [output_bytes] * (1 + is_recomputed)
        elif kind == "columns" and dims.sequence:
            parts += [costs.sizes.inputs[name]] * (3 + is_recomputed)
        elif kind in ("columns", "vocabulary"):
            sums.append(costs.sizes.inputs[name])
            if kind == "vocabulary" and gathers_logits:
                sums[-1] += costs.sizes.outputs[name] / 2  # a gather sends half the bytes of a sum
    if dims.sequence:  # the backward pass after the embedding, and the forward pass before the last layer
        count = len(session.plan.stage_bounds) - 1
        ends = [0 in stages, count - 1 in stages] if count > 0 else [True, True]
        parts += [max(parts, default=0.0)] * sum(ends)
    examples, calls = count_rank_examples(session), plan.accumulation
    summed = (sum(sums) * examples, sum(map(bool, sums)) * calls)
    shared = (sum(parts) * examples, sum(map(bool, parts)) * calls)
    traffic = [all_reduce_traffic("sums within layers", *summed, dims.tp, 1, "nothing")]
    if dims.sequence:
        traffic.append(gather_or_scatter_traffic("positions of layers", *shared, dims.tp, 1, "nothing"))
    return traffic


def _list_own_layers(session: Session, model: nn.Module, stages: tuple[int, ...]) -> dict[str, str]:
    """Return the tensor-parallel plan of the layers of `stages`."""
    plan = dict(get_parallel_plan(model, session.plan.degrees.tp) or {})
    if not session.plan.stage_bounds:
        return plan
    sections = get_sections(model)
    owned_names = tuple(
        f"{name}."
        for first, end in get_section_bounds(session, stages)
        for section in sections[first:end]
        for name in section.owned_names
    )
    return {name: division for name, division in plan.items() if f"{name}.".startswith(owned_names)}


def estimate_pipeline_traffic(session: Session, costs: ModelCosts, stages: tuple[int, ...]) -> list[Traffic]:
    """Return the traffic of a pipeline.

    For each micro-batch, activations go to the next stage and gradients to the one before.
    """
    dims, bounds = session.plan.degrees, session.plan.stage_bounds
    if dims.pp == 1:
        return []
    forward = [costs.sizes.boundaries[bounds[stage + 1] - 1] for stage in stages if stage + 2 < len(bounds)]
    back = [costs.sizes.boundaries[bounds[stage] - 1] for stage in stages if stage]
    messages = session.plan.accumulation * len(forward + back)
    size = float(sum(forward + back)) * count_rank_examples(session) / (dims.tp if dims.sequence else 1)
    stride = dims.tp * dims.shard * dims.replicate
    return [Traffic("between stages", size, messages, dims.pp, stride, "nothing", ring=False)]
