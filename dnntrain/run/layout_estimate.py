"""Estimate the memory, traffic and step time of a layout without its hardware.

Each kind of rank is laid out in this one process. The formulas are in docs/layout-planning.md,
their arithmetic in `distributed/comm_cost.py`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.comm_cost import (
    Links,
    StepTime,
    Traffic,
    all_reduce_traffic,
    estimate_step_time,
    gather_or_scatter_traffic,
)
from dnntrain.distributed.parallel_dims import ParallelConfig, ParallelDims, RankCoords, uses_fsdp
from dnntrain.nn.cost import LayerSizes, measure_kept_by_section, measure_layer_sizes
from dnntrain.nn.feature_capture import add_adapters
from dnntrain.nn.freezing import freeze_model
from dnntrain.nn.partition import find_blocks, get_parallel_plan, get_sections
from dnntrain.nn.shape import ModelShape
from dnntrain.planning.memory import TRAINING_WORK, count_weight_copies
from dnntrain.planning.plan import Memory
from dnntrain.protocols import Hooks
from dnntrain.run.session import Session
from dnntrain.training.distribute_model import distribute_model
from dnntrain.training.setup import build_unfilled_model
from dnntrain.utils.dtensor import local_shard
from dnntrain.utils.units import format_bytes, format_count
from dnntrain.utils.world import World

#: Bytes of a weight, a gradient and a number of optimizer state.
_FLOAT = 4


@dataclass(frozen=True)
class RankEstimate:
    """The contents of one rank, in bytes; `parameters` is a count, `flops` its forward operations per step."""

    rank: int
    stages: tuple[int, ...]
    shard: int
    parameters: int
    weights: int
    gradients: int
    optimizer: int
    averages: int
    activations: int
    teacher: int
    flops: float
    traffic: tuple[Traffic, ...]

    @property
    def total(self) -> int:
        """Memory in bytes, without the process and its data."""
        return self.weights + self.gradients + self.optimizer + self.averages + self.activations + self.teacher


@dataclass(frozen=True)
class LayoutEstimate:
    """One rank of each kind: the first and the last shard of every stage.

    `missing` are the settings that `step` needs and that are not set.
    """

    ranks: tuple[RankEstimate, ...]
    step: StepTime | None
    missing: tuple[str, ...]

    def refine_memory(self, memory: Memory) -> Memory:
        """Return `memory` with the numbers of the rank that holds the most.

        `memory` itself divides the whole model evenly.
        """
        rank = max(self.ranks, key=lambda rank: rank.total)
        return replace(
            memory,
            weights=rank.weights,
            gradients=rank.gradients,
            optimizer=rank.optimizer,
            averages=rank.averages,
            activations=rank.activations,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the key `foresight` of the plan."""
        ranks = [{**asdict(rank), "memory_bytes": rank.total} for rank in self.ranks]
        step = None if self.step is None else {**asdict(self.step), "total": self.step.total}
        return {"ranks": ranks, "step_s": step, "missing": list(self.missing)}

    def format_rows(self) -> list[tuple[str, str]]:
        """Return (label, text) rows for a person."""
        rows = [row for rank in self.ranks for row in _format_rank(rank)]
        if self.step is None:
            return [*rows, ("step", f"not predicted: state {', '.join(self.missing)}")]
        hooks = [f"{name} {_format_milliseconds(seconds)}" for name, seconds in asdict(self.step).items() if seconds]
        return [*rows, ("step", f"about {_format_milliseconds(self.step.total)}: {', '.join(hooks)}")]


def estimate_layout(session: Session) -> LayoutEstimate | None:
    """Lay out one rank of each kind on a fake process group; None for one process.

    Raises ConfigError if the layout cannot divide the model.
    """
    plan = session.plan
    if plan.ranks == 1:
        return None
    costs = _ModelCosts.from_session(session)
    ranks = []
    for stage in range(plan.degrees.pp):
        shard_size = 0
        for shard in sorted({0, plan.degrees.shard - 1}):
            rank_model, parameter_count, units = _build_rank_model(
                session, costs, _find_rank(plan.degrees, stage, shard)
            )
            # Shards are padded to the size of the first.
            shard_size = shard_size or parameter_count
            ranks.append(_estimate_rank(session, costs, rank_model, shard_size, units))
    missing_settings = _find_missing_settings(session)
    step = (
        None
        if missing_settings
        else max((_estimate_step_time(session, rank) for rank in ranks), key=lambda step: step.total)
    )
    return LayoutEstimate(tuple(ranks), step, missing_settings)


@dataclass(frozen=True)
class _ModelCosts:
    """The costs of the whole model for one example.

    They are the inputs and outputs of layers, and the memory of the backward pass of each section.
    """

    hooks: Hooks
    sizes: LayerSizes
    kept_bytes: list[list[int]]

    @classmethod
    def from_session(cls, session: Session) -> _ModelCosts:
        hooks, half_dtype = session.hooks, session.plan.precision.torch_dtype
        sizes = measure_layer_sizes(
            _build_model(session, hooks),
            ModelShape.from_spec(session.data.spec),
            tuple(_get_parallel_plan(session, hooks)),
            half_dtype,
        )
        return cls(hooks, sizes, _compute_kept_bytes(session, hooks, 2 if half_dtype else _FLOAT))


@dataclass(frozen=True)
class _RankModel:
    coords: RankCoords
    rank: int
    model: nn.Module
    stages: tuple[int, ...]


def _build_model(session: Session, hooks: Hooks) -> nn.Module:
    """Build the model of the run without filling its weights."""
    model = build_unfilled_model(session.config, ModelShape.from_spec(session.data.spec), hooks)
    config = session.config
    patterns = config.train.freeze if session.plan.unfreeze_step is None else ()
    freeze_model(model, patterns, config.optim.list_fixed_parameters(model))
    add_adapters(model, hooks.feature_taps)
    return model


def _get_parallel_plan(session: Session, hooks: Hooks) -> dict[str, str]:
    """Return the tensor-parallel plan if it is used."""
    return dict(get_parallel_plan(_build_model(session, hooks)) or {}) if session.plan.degrees.tp > 1 else {}


def _compute_kept_bytes(session: Session, hooks: Hooks, bytes_per_element: int) -> list[list[int]]:
    """Return the bytes that the backward pass keeps, for the sections of a rank's shard of the model."""
    dims = session.plan.degrees
    if dims.tp == 1:
        return measure_kept_by_section(
            _build_model(session, hooks), ModelShape.from_spec(session.data.spec), bytes_per_element
        )
    from dnntrain.distributed.fake_group import fake_process_group
    from dnntrain.distributed.mesh import Mesh
    from dnntrain.distributed.tensor_parallel import apply_tensor_parallel

    with fake_process_group(dims.ranks, 0):
        model = _build_model(session, hooks)
        apply_tensor_parallel(model, Mesh(dims, "cpu").tensor)
        return measure_kept_by_section(model, ModelShape.from_spec(session.data.spec), bytes_per_element)


def _find_rank(dims: ParallelDims, stage: int, shard: int) -> int:
    """Return the first rank of this stage and shard."""
    return (stage * dims.replicate * dims.shard + shard) * dims.tp


def _get_layout(session: Session) -> ParallelConfig:
    layout = session.config.parallel
    assert isinstance(layout, ParallelConfig)
    return layout


def _build_rank_model(session: Session, costs: _ModelCosts, rank: int) -> tuple[_RankModel, int, int]:
    """Return (the contents of this rank, its trainable numbers, the groups that gather them)."""
    from dnntrain.distributed.fake_group import fake_process_group
    from dnntrain.distributed.mesh import Mesh

    plan, layout = session.plan, _get_layout(session)
    coords = plan.degrees.locate_rank(World(rank, plan.ranks))
    with fake_process_group(plan.ranks, rank):
        model = _build_model(session, costs.hooks)
        mesh = Mesh(plan.degrees, "cpu")
        checkpointing = session.config.train.activation_checkpointing
        parallel_model = distribute_model(model, costs.hooks.feature_taps, checkpointing, layout, plan, coords, mesh)
        trainable_count = sum(local_shard(p).numel() for p in parallel_model.model.parameters() if p.requires_grad)
        units = sum(len(find_blocks(module)) + 1 for module in parallel_model.run_modules)
        return (
            _RankModel(coords, rank, parallel_model.model, tuple(parallel_model.stage_indices)),
            trainable_count,
            units,
        )


def _estimate_rank(
    session: Session, costs: _ModelCosts, rank_model: _RankModel, shard_size: int, units: int
) -> RankEstimate:
    config, plan, layout = session.config, session.plan, _get_layout(session)
    numbers = [(local_shard(parameter).numel(), parameter.requires_grad) for parameter in rank_model.model.parameters()]
    trainable_count = sum(count for count, is_trainable in numbers if is_trainable)
    buffers = sum(local_shard(buffer).nbytes for buffer in rank_model.model.buffers())
    flops = plan.model.flops_per_example
    if plan.degrees.pp > 1:
        flops = sum(sum(plan.model.section_flops[a:b]) for a, b in _get_section_bounds(session, rank_model.stages))
    return RankEstimate(
        rank=rank_model.rank,
        stages=rank_model.stages,
        shard=rank_model.coords.data_world.rank % plan.degrees.shard,
        parameters=sum(count for count, _ in numbers),
        weights=_FLOAT * sum(count for count, _ in numbers) + buffers,
        gradients=_FLOAT * trainable_count,
        optimizer=int(_FLOAT * trainable_count * config.optim.state_floats_per_parameter),
        averages=_FLOAT
        * trainable_count
        * (count_weight_copies(costs.hooks, plan.degrees.shard) + layout.gradient_copies),
        activations=_compute_activation_bytes(session, costs, rank_model),
        teacher=plan.memory.teacher,
        flops=flops * _count_examples(session) / plan.degrees.tp,
        traffic=(
            *_estimate_data_traffic(session, shard_size, units),
            *_estimate_tensor_traffic(session, costs, rank_model.stages),
            *_estimate_pipeline_traffic(session, costs, rank_model.stages),
        ),
    )


def _get_section_bounds(session: Session, stages: tuple[int, ...]) -> list[tuple[int, int]]:
    bounds = session.plan.stage_bounds
    return [(bounds[stage], bounds[stage + 1]) for stage in stages] if bounds else [(0, 10**9)]


def _count_examples(session: Session) -> int:
    """Return the examples of one rank in a step; in a pipeline all micro-batches have one size."""
    plan = session.plan
    if plan.degrees.pp > 1:
        return plan.accumulation * plan.micro_batch_size
    return math.ceil(plan.timetable.sizes[-1] / plan.degrees.data_ranks)


def _compute_activation_bytes(session: Session, costs: _ModelCosts, rank_model: _RankModel) -> int:
    """Return the bytes for backward passes of micro-batches in flight, and the work space of one."""
    plan = session.plan
    sizes = [costs.kept_bytes[a:b] for a, b in _get_section_bounds(session, rank_model.stages)]
    kept_bytes = sum(size for stage in sizes for section in stage for size in section) / len(sizes)
    largest = max((size for stage in sizes for section in stage for size in section), default=0)
    in_flight_count = count_in_flight(_get_layout(session), plan.degrees, rank_model.coords.pp, plan.accumulation)
    return int(plan.micro_batch_size * (in_flight_count * kept_bytes + TRAINING_WORK * largest))


def count_in_flight(layout: ParallelConfig, dims: ParallelDims, stage: int, micro_batches: int) -> int:
    """Return the number of micro-batches (times stages of the rank) whose activations are held at once.

    It is all of them (GPipe), or those before the first backward pass.
    """
    if dims.pp == 1:
        return 1
    if layout.schedule == "gpipe":
        return micro_batches
    if layout.schedule == "1f1b":
        return min(micro_batches, dims.pp - stage)
    stages_per_rank = layout.stages_per_rank
    warm_up = (stages_per_rank - 1) * dims.pp + 2 * (dims.pp - 1 - stage)
    return min(micro_batches * stages_per_rank, warm_up + 1)


def _estimate_data_traffic(session: Session, shard_size: int, units: int) -> list[Traffic]:
    """Return the traffic of gradients between replicas, and of weights and gradients of shards.

    `shard_size` numbers are on the rank, gathered in `units` groups.
    """
    dims, layout, micro_batches = session.plan.degrees, _get_layout(session), session.plan.accumulation
    copies = dims.tp * dims.shard
    if not uses_fsdp(layout, dims):
        size = _compute_ddp_bytes(layout, session, shard_size)
        buckets = math.ceil(_FLOAT * shard_size / (layout.bucket_size_mb * 2**20))
        return (
            [all_reduce_traffic("gradients", size, buckets, dims.replicate, copies, "backward")]
            if dims.replicate > 1
            else []
        )
    traffic = []
    if dims.shard > 1:
        element = 2 if layout.param_dtype == "bf16" else _FLOAT
        passes = micro_batches * (2 if layout.reshard_after_forward else 1)
        total_size = shard_size * dims.shard
        shards = (dims.shard, dims.tp)
        traffic = [
            gather_or_scatter_traffic(
                "gathered weights", element * total_size * passes, units * passes, *shards, "computation"
            ),
            gather_or_scatter_traffic("scattered gradients", _FLOAT * total_size, units, *shards, "backward"),
        ]
    if dims.replicate > 1:
        traffic.append(
            all_reduce_traffic(
                "gradients between replicas", _FLOAT * shard_size, units, dims.replicate, copies, "backward"
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
        return _FLOAT * numbers
    total = 0
    for parameter in build_unfilled_model(session.config, ModelShape.from_spec(session.data.spec)).parameters():
        rows = len(parameter) if parameter.ndim > 1 else 0
        sides = rows + parameter.numel() // rows if rows else 0
        # torch's hook leaves a gradient alone if compression would not halve it.
        total += sides if rows and 2 * sides < parameter.numel() else parameter.numel()
    return _FLOAT * total


def _estimate_tensor_traffic(session: Session, costs: _ModelCosts, stages: tuple[int, ...]) -> list[Traffic]:
    """Return the traffic of sharded layers.

    Each pair sums its outputs in the forward pass, and the gradients of its inputs in the backward
    pass.
    """
    dims, plan = session.plan.degrees, session.plan
    if dims.tp == 1:
        return []
    model = _build_model(session, costs.hooks)
    owned_names: list[str] | None = None
    if plan.stage_bounds:
        all_sections = get_sections(model)
        owned_names = [
            name
            for a, b in _get_section_bounds(session, stages)
            for section in all_sections[a:b]
            for name in section.owned_names
        ]
    names = {id(module): name for name, module in model.named_modules()}
    recomputes = session.config.train.activation_checkpointing != "none"
    recomputed_names = (
        {names[id(module)] for block in find_blocks(model) for module in block.modules()} if recomputes else set()
    )
    size, calls = 0.0, 0
    for name, division in (get_parallel_plan(model) or {}).items():
        if owned_names is not None and not any(
            name == owned_name or name.startswith(f"{owned_name}.") for owned_name in owned_names
        ):
            continue
        kind = division.partition("/")[0]
        times = 2 if kind == "rows" and name in recomputed_names else 1
        output_bytes = (
            costs.sizes.outputs[name] if kind == "rows" else costs.sizes.inputs[name] if kind == "columns" else 0
        )
        size += times * output_bytes
        calls += times * bool(output_bytes)
    return [
        all_reduce_traffic(
            "sums within layers", size * _count_examples(session), calls * plan.accumulation, dims.tp, 1, "nothing"
        )
    ]


def _estimate_pipeline_traffic(session: Session, costs: _ModelCosts, stages: tuple[int, ...]) -> list[Traffic]:
    """Return the traffic of a pipeline.

    For each micro-batch, activations go to the next stage and gradients to the one before.
    """
    dims, bounds = session.plan.degrees, session.plan.stage_bounds
    if dims.pp == 1:
        return []
    forward = [costs.sizes.boundaries[bounds[stage + 1] - 1] for stage in stages if stage + 2 < len(bounds)]
    back = [costs.sizes.boundaries[bounds[stage] - 1] for stage in stages if stage]
    messages = session.plan.accumulation * len(forward + back)
    size = float(sum(forward + back)) * _count_examples(session)
    stride = dims.tp * dims.shard * dims.replicate
    return [Traffic("between stages", size, messages, dims.pp, stride, "nothing", ring=False)]


def _find_missing_settings(session: Session) -> tuple[str, ...]:
    cluster, ranks = session.config.cluster, session.plan.ranks
    per_node = _get_ranks_per_node(session.config, ranks)
    needed = {
        "device_tflops": cluster.device_tflops,
        "link_gbps": cluster.link_gbps,
        "ranks_per_node": per_node,
        "node_link_gbps": cluster.node_link_gbps if ranks > (per_node or ranks) else 0.0,
    }
    return tuple(f"cluster.{name}=N" for name, value in needed.items() if value is None)


def _get_ranks_per_node(config: RunConfig, ranks: int) -> int | None:
    """Return the ranks of a node; ranks that exist are all on this one."""
    return config.cluster.ranks_per_node or (ranks if config.cluster.world_size is None else None)


def _estimate_step_time(session: Session, rank: RankEstimate) -> StepTime:
    cluster, plan, layout = session.config.cluster, session.plan, session.config.parallel
    assert cluster.link_gbps is not None
    assert cluster.device_tflops is not None
    passes = plan.model.train_flops_factor + (session.config.train.activation_checkpointing == "full")
    links = Links(
        rank_bandwidth=1e9 / 8 * cluster.link_gbps,
        node_bandwidth=1e9 / 8 * (cluster.node_link_gbps or cluster.link_gbps),
        ranks_per_node=_get_ranks_per_node(session.config, plan.ranks) or plan.ranks,
        latency_s=1e-6 * cluster.latency_us,
    )
    return estimate_step_time(
        passes * rank.flops / (1e12 * cluster.device_tflops * cluster.utilization),
        rank.traffic,
        links,
        stages=plan.degrees.pp,
        stages_per_rank=layout.stages_per_rank,
        micro_batches=plan.accumulation,
        backward_share=(passes - 1) / passes,
    )


def _format_rank(rank: RankEstimate) -> list[tuple[str, str]]:
    names = ("weights", "gradients", "optimizer", "averages", "activations", "teacher")
    memory_bytes = {name: getattr(rank, name) for name in names}
    position = f"stage{'s' if len(rank.stages) > 1 else ''} {', '.join(map(str, rank.stages))}, shard {rank.shard}: "
    rows = [
        (
            f"rank {rank.rank}",
            f"{position}{format_count(rank.parameters)} parameters; about {format_bytes(rank.total)}: "
            + ", ".join(f"{name} {format_bytes(size)}" for name, size in memory_bytes.items() if size),
        )
    ]
    if rank.traffic:
        total = sum(traffic.bytes for traffic in rank.traffic)
        traffic_text = ", ".join(f"{traffic.name} {format_bytes(traffic.bytes)}" for traffic in rank.traffic)
        rows.append(("", f"sends {format_bytes(total)} a step: {traffic_text}"))
    return rows


def _format_milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
