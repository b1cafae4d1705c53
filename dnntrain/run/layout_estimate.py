"""Estimate the memory, traffic and step time of a layout without its hardware.

Each kind of rank is laid out in this one process. The formulas are in docs/layout-planning.md,
their arithmetic in `distributed/comm_cost.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.comm_cost import (
    Links,
    StepTime,
    Traffic,
    estimate_step_time,
)
from dnntrain.distributed.parallel_dims import ParallelConfig, ParallelDims, RankCoords
from dnntrain.nn.partition import find_blocks
from dnntrain.planning.memory import TRAINING_WORK, count_weight_copies
from dnntrain.planning.plan import Memory
from dnntrain.run.model_costs import FLOAT_BYTES, ModelCosts, build_costed_model, count_rank_examples, get_layout
from dnntrain.run.session import Session
from dnntrain.run.traffic_estimate import (
    estimate_data_traffic,
    estimate_pipeline_traffic,
    estimate_tensor_traffic,
    get_section_bounds,
)
from dnntrain.training.distribute_model import distribute_model
from dnntrain.utils.dtensor import local_shard
from dnntrain.utils.units import format_bytes, format_count
from dnntrain.utils.world import World


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
    costs = ModelCosts.from_session(session)
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
class _RankModel:
    coords: RankCoords
    rank: int
    model: nn.Module
    stages: tuple[int, ...]


def _find_rank(dims: ParallelDims, stage: int, shard: int) -> int:
    """Return the first rank of this stage and shard."""
    return (stage * dims.replicate * dims.shard + shard) * dims.tp


def _build_rank_model(session: Session, costs: ModelCosts, rank: int) -> tuple[_RankModel, int, int]:
    """Return (the contents of this rank, its trainable numbers, the groups that gather them)."""
    from dnntrain.distributed.fake_group import fake_process_group
    from dnntrain.distributed.mesh import Mesh

    plan, layout = session.plan, get_layout(session)
    coords = plan.degrees.locate_rank(World(rank, plan.ranks))
    with fake_process_group(plan.ranks, rank):
        model = build_costed_model(session, costs.hooks)
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
    session: Session, costs: ModelCosts, rank_model: _RankModel, shard_size: int, units: int
) -> RankEstimate:
    config, plan, layout = session.config, session.plan, get_layout(session)
    numbers = [(local_shard(parameter).numel(), parameter.requires_grad) for parameter in rank_model.model.parameters()]
    trainable_count = sum(count for count, is_trainable in numbers if is_trainable)
    buffers = sum(local_shard(buffer).nbytes for buffer in rank_model.model.buffers())
    flops = plan.model.flops_per_example
    if plan.degrees.pp > 1:
        flops = sum(sum(plan.model.section_flops[a:b]) for a, b in get_section_bounds(session, rank_model.stages))
    return RankEstimate(
        rank=rank_model.rank,
        stages=rank_model.stages,
        shard=rank_model.coords.data_world.rank % plan.degrees.shard,
        parameters=sum(count for count, _ in numbers),
        weights=FLOAT_BYTES * sum(count for count, _ in numbers) + buffers,
        gradients=FLOAT_BYTES * trainable_count,
        optimizer=int(FLOAT_BYTES * trainable_count * config.optim.state_floats_per_parameter),
        averages=FLOAT_BYTES
        * trainable_count
        * (count_weight_copies(costs.hooks, plan.degrees.shard) + layout.gradient_copies),
        activations=_compute_activation_bytes(session, costs, rank_model),
        teacher=plan.memory.teacher,
        flops=flops * count_rank_examples(session) / plan.degrees.tp,
        traffic=(
            *estimate_data_traffic(session, shard_size, units),
            *estimate_tensor_traffic(session, costs, rank_model.stages),
            *estimate_pipeline_traffic(session, costs, rank_model.stages),
        ),
    )


def _compute_activation_bytes(session: Session, costs: ModelCosts, rank_model: _RankModel) -> int:
    """Return the bytes for backward passes of micro-batches in flight, and the work space of one."""
    plan = session.plan
    sizes = [costs.kept_bytes[a:b] for a, b in get_section_bounds(session, rank_model.stages)]
    kept_bytes = sum(size for stage in sizes for section in stage for size in section) / len(sizes)
    largest = max((size for stage in sizes for section in stage for size in section), default=0)
    in_flight_count = count_in_flight(get_layout(session), plan.degrees, rank_model.coords.pp, plan.accumulation)
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
