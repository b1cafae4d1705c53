"""The bytes that ranks exchange in a step, by layout."""

from __future__ import annotations

import math

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
    pass.
    """
    dims, plan = session.plan.degrees, session.plan
    if dims.tp == 1:
        return []
    model = build_costed_model(session, costs.hooks)
    owned_names: list[str] | None = None
    if plan.stage_bounds:
        all_sections = get_sections(model)
        owned_names = [
            name
            for a, b in get_section_bounds(session, stages)
            for section in all_sections[a:b]
            for name in section.owned_names
        ]
    names = {id(module): name for name, module in model.named_modules()}
    recomputes = session.config.train.activation_checkpointing != "none"
    recomputed_names = (
        {names[id(module)] for block in find_blocks(model) for module in block.modules()} if recomputes else set()
    )
    # Of a vocabulary, the loss sums the gradients of the inputs; otherwise the logits are gathered, too.
    gathers_logits = dims.pp > 1 or bool(costs.hooks.loss_terms or costs.hooks.feature_taps)
    size, calls = 0.0, 0
    for name, division in (get_parallel_plan(model, dims.tp) or {}).items():
        if owned_names is not None and not any(
            name == owned_name or name.startswith(f"{owned_name}.") for owned_name in owned_names
        ):
            continue
        kind = division.partition("/")[0]
        times = 2 if kind == "rows" and name in recomputed_names else 1
        output_bytes: float = costs.sizes.outputs[name] if kind == "rows" else 0
        if kind in ("columns", "vocabulary"):
            output_bytes = costs.sizes.inputs[name]
        if kind == "vocabulary" and gathers_logits:
            output_bytes += costs.sizes.outputs[name] / 2  # a gather sends half the bytes of a sum
        size += times * output_bytes
        calls += times * bool(output_bytes)
    return [
        all_reduce_traffic(
            "sums within layers", size * count_rank_examples(session), calls * plan.accumulation, dims.tp, 1, "nothing"
        )
    ]


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
    size = float(sum(forward + back)) * count_rank_examples(session)
    stride = dims.tp * dims.shard * dims.replicate
    return [Traffic("between stages", size, messages, dims.pp, stride, "nothing", ring=False)]
