"""A layout without its hardware: each kind of rank laid out in this one process, what it holds and sends, and how long a step takes.

The formulas are in docs/layout-planning.md, their arithmetic in `parallel/traffic.py`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from dnntrain.choices.launch.local import Local
from dnntrain.distributed.comm_cost import Links, StepTime, Traffic, all_reduce, half_of_all_reduce, step_time
from dnntrain.distributed.parallel_dims import Degrees, Layout, Place, uses_fsdp
from dnntrain.nn.cost import LayerSizes, kept_by_section, layer_sizes, unfilled
from dnntrain.nn.feature_capture import add_adapters
from dnntrain.nn.partition import blocks, parallel_plan, sections
from dnntrain.nn.shape import ModelShape
from dnntrain.planning.memory import TRAINING_WORK
from dnntrain.planning.plan import Memory
from dnntrain.protocols import Alone, Parts
from dnntrain.run.session import Session
from dnntrain.training.components import collect, make_context
from dnntrain.training.distribute_model import place_on_ranks
from dnntrain.utils.dtensor import local
from dnntrain.utils.units import format_bytes, format_count
from dnntrain.utils.world import World

#: Bytes of a weight, a gradient and a number of optimizer state.
_FLOAT = 4


@dataclass(frozen=True)
class ForeseenRank:
    """What one rank holds, bytes; `parameters` are numbers, `flops` its forward operations in a step."""

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
        """Memory, without that of the process and its data."""
        return self.weights + self.gradients + self.optimizer + self.averages + self.activations + self.teacher


@dataclass(frozen=True)
class Foresight:
    """One rank of each kind: of every stage the first and the last shard. `missing` are the settings that `step` needs and has not."""

    ranks: tuple[ForeseenRank, ...]
    step: StepTime | None
    missing: tuple[str, ...]

    def of_largest(self, memory: Memory) -> Memory:
        """`memory`, which divides the whole model evenly, with what the rank that holds the most does hold."""
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
        """The key `foresight` of the plan."""
        ranks = [{**asdict(rank), "memory_bytes": rank.total} for rank in self.ranks]
        step = None if self.step is None else {**asdict(self.step), "total": self.step.total}
        return {"ranks": ranks, "step_s": step, "missing": list(self.missing)}

    def lines(self) -> list[tuple[str, str]]:
        """(label, text) rows for a person."""
        rows = [row for rank in self.ranks for row in _rank_lines(rank)]
        if self.step is None:
            return [*rows, ("step", f"not predicted: state {', '.join(self.missing)}")]
        parts = [f"{name} {_milliseconds(seconds)}" for name, seconds in asdict(self.step).items() if seconds]
        return [*rows, ("step", f"about {_milliseconds(self.step.total)}: {', '.join(parts)}")]


def foresee(session: Session) -> Foresight | None:
    """Lays out one rank of each kind among ranks that are not there; None for one process.

    Raises ConfigError where the layout does not divide the model.
    """
    plan = session.plan
    if plan.ranks == 1:
        return None
    facts = _Facts.of(session)
    ranks = []
    for stage in range(plan.degrees.pp):
        chunk = 0
        for shard in sorted({0, plan.degrees.shard - 1}):
            found, numbers, units = _laid_out(session, facts, _rank(plan.degrees, stage, shard))
            # Shards are padded to the size of the first.
            chunk = chunk or numbers
            ranks.append(_foreseen(session, facts, found, chunk, units))
    missing = _missing(session)
    step = None if missing else max((_step(session, rank) for rank in ranks), key=lambda step: step.total)
    return Foresight(tuple(ranks), step, missing)


@dataclass(frozen=True)
class _Facts:
    """Of the whole model, for one example: what layers take and give, and what the backward pass needs of each section."""

    parts: Parts
    sizes: LayerSizes
    kept: list[list[int]]

    @classmethod
    def of(cls, session: Session) -> _Facts:
        config, plan, device = session.config, session.plan, session.device
        context = make_context(config, plan, session.data, device, World(), Alone())
        parts = collect(config, context)
        half = getattr(torch, plan.precision.autocast) if plan.precision.autocast else None
        sizes = layer_sizes(_model(session, parts), _shape(session), tuple(_divided(session, parts)), half)
        return cls(parts, sizes, _kept(session, parts, 2 if half else _FLOAT))


@dataclass(frozen=True)
class _LaidOut:
    place: Place
    rank: int
    model: nn.Module
    stages: tuple[int, ...]


def _shape(session: Session) -> ModelShape:
    data = session.plan.data
    return ModelShape(data.num_classes, *data.input_shape)


def _model(session: Session, parts: Parts) -> nn.Module:
    """The model of the run, its weights not filled."""
    shape = _shape(session)
    model = unfilled(lambda: session.config.model.build(shape))
    for transform in parts.model:
        model = transform.apply(model)
    add_adapters(model, parts.captures)
    return model


def _divided(session: Session, parts: Parts) -> dict[str, str]:
    """The tensor-parallel plan, where it is used."""
    return dict(parallel_plan(_model(session, parts)) or {}) if session.plan.degrees.tp > 1 else {}


def _kept(session: Session, parts: Parts, bytes_per_element: int) -> list[list[int]]:
    """Of the sections of a rank's tensor-parallel part of the model."""
    degrees = session.plan.degrees
    if degrees.tp == 1:
        return kept_by_section(_model(session, parts), _shape(session), bytes_per_element)
    from dnntrain.distributed.fake_group import one_of
    from dnntrain.distributed.mesh import Mesh
    from dnntrain.distributed.tensor_parallel import divide

    with one_of(degrees.ranks, 0):
        model = _model(session, parts)
        divide(model, Mesh(degrees, "cpu").tensor)
        return kept_by_section(model, _shape(session), bytes_per_element)


def _rank(degrees: Degrees, stage: int, shard: int) -> int:
    """The first rank of this stage and shard."""
    return (stage * degrees.dp * degrees.shard + shard) * degrees.tp


def _laid_out(session: Session, facts: _Facts, rank: int) -> tuple[_LaidOut, int, int]:
    """(what this rank holds, its trainable numbers, the groups in which they are gathered)."""
    from dnntrain.distributed.fake_group import one_of
    from dnntrain.distributed.mesh import Mesh

    plan, layout = session.plan, session.config.parallel
    assert isinstance(layout, Layout)
    place = plan.degrees.place(World(rank, plan.ranks))
    with one_of(plan.ranks, rank):
        model = _model(session, facts.parts)
        mesh = Mesh(plan.degrees, "cpu")
        arranged = place_on_ranks(session.config, plan, model, facts.parts, layout, place, mesh)
        trained = sum(local(p).numel() for p in arranged.model.parameters() if p.requires_grad)
        units = sum(len(blocks(module)) + 1 for module in arranged.run)
        return _LaidOut(place, rank, arranged.model, tuple(arranged.stages)), trained, units


def _foreseen(session: Session, facts: _Facts, found: _LaidOut, chunk: int, units: int) -> ForeseenRank:
    config, plan = session.config, session.plan
    numbers = [(local(parameter).numel(), parameter.requires_grad) for parameter in found.model.parameters()]
    trained = sum(count for count, trains in numbers if trains)
    buffers = sum(local(buffer).nbytes for buffer in found.model.buffers())
    flops = plan.model.flops_per_example
    if plan.degrees.pp > 1:
        flops = sum(sum(plan.model.section_flops[a:b]) for a, b in _bounds(session, found.stages))
    return ForeseenRank(
        rank=found.rank,
        stages=found.stages,
        shard=found.place.data.rank % plan.degrees.shard,
        parameters=sum(count for count, _ in numbers),
        weights=_FLOAT * sum(count for count, _ in numbers) + buffers,
        gradients=_FLOAT * trained,
        optimizer=int(_FLOAT * trained * config.optim.state_numbers),
        averages=_FLOAT * trained if "ema" in config.reg else 0,
        activations=_activations(session, facts, found),
        teacher=plan.memory.teacher,
        flops=flops * _examples(session) / plan.degrees.tp,
        traffic=(
            *_data_traffic(session, chunk, units),
            *_tensor_traffic(session, facts, found.stages),
            *_pipeline_traffic(session, facts, found.stages),
        ),
    )


def _bounds(session: Session, stages: tuple[int, ...]) -> list[tuple[int, int]]:
    bounds = session.plan.stage_bounds
    return [(bounds[stage], bounds[stage + 1]) for stage in stages] if bounds else [(0, 10**9)]


def _examples(session: Session) -> int:
    """Examples that one rank computes in a step; in a pipeline all micro-batches have one size."""
    plan = session.plan
    if plan.degrees.pp > 1:
        return plan.accumulation * plan.micro_batch_size
    return math.ceil(plan.timetable.sizes[-1] / plan.degrees.data_ranks)


def _activations(session: Session, facts: _Facts, found: _LaidOut) -> int:
    """What the backward passes need of the micro-batches that are under way at once, and the work space of one."""
    plan = session.plan
    sizes = [facts.kept[a:b] for a, b in _bounds(session, found.stages)]
    kept = sum(size for stage in sizes for section in stage for size in section) / len(sizes)
    largest = max((size for stage in sizes for section in stage for size in section), default=0)
    alive = in_flight(session.config.parallel, plan.degrees, found.place.pp, plan.accumulation)
    return int(plan.micro_batch_size * (alive * kept + TRAINING_WORK * largest))


def in_flight(layout: Layout, degrees: Degrees, stage: int, micro_batches: int) -> int:
    """Micro-batches (times stages of the rank) whose activations are held at once: all (GPipe), or those before the first backward pass."""
    if degrees.pp == 1:
        return 1
    if layout.schedule == "gpipe":
        return micro_batches
    if layout.schedule == "1f1b":
        return min(micro_batches, degrees.pp - stage)
    several = layout.stages_per_rank
    warm_up = (several - 1) * degrees.pp + 2 * (degrees.pp - 1 - stage)
    return min(micro_batches * several, warm_up + 1)


def _data_traffic(session: Session, chunk: int, units: int) -> list[Traffic]:
    """Gradients of copies, and weights and gradients of shards; `chunk` numbers lie on the rank, gathered in `units` groups."""
    degrees, layout, micro = session.plan.degrees, session.config.parallel, session.plan.accumulation
    copies = degrees.tp * degrees.shard
    if not uses_fsdp(layout, degrees):
        size = _sent_by_ddp(layout, session, chunk)
        buckets = math.ceil(_FLOAT * chunk / (layout.bucket_mb * 2**20))
        return [all_reduce("gradients", size, buckets, degrees.dp, copies, "backward")] if degrees.dp > 1 else []
    found = []
    if degrees.shard > 1:
        element = 2 if layout.param_dtype == "bf16" else _FLOAT
        passes = micro * (2 if layout.reshard_after_forward else 1)
        whole = chunk * degrees.shard
        shards = (degrees.shard, degrees.tp)
        found = [
            half_of_all_reduce("gathered weights", element * whole * passes, units * passes, *shards, "computation"),
            half_of_all_reduce("scattered gradients", _FLOAT * whole, units, *shards, "backward"),
        ]
    if degrees.dp > 1:
        found.append(all_reduce("gradients between copies", _FLOAT * chunk, units, degrees.dp, copies, "backward"))
    return found


def _sent_by_ddp(layout: Layout, session: Session, numbers: int) -> float:
    """Bytes of the gradients in the form in which they are sent. PowerSGD sends a matrix [n, m] of rank 1 as n + m numbers."""
    if layout.compress in ("bf16", "fp16"):
        return 2 * numbers
    if layout.compress == "none":
        return _FLOAT * numbers
    total = 0
    shape = _shape(session)
    for parameter in unfilled(lambda: session.config.model.build(shape)).parameters():
        rows = len(parameter) if parameter.ndim > 1 else 0
        sides = rows + parameter.numel() // rows if rows else 0
        # torch's hook leaves alone what would not be halved.
        total += sides if rows and 2 * sides < parameter.numel() else parameter.numel()
    return _FLOAT * total


def _tensor_traffic(session: Session, facts: _Facts, stages: tuple[int, ...]) -> list[Traffic]:
    """Each pair of divided layers sums its outputs in the forward pass, and the gradients of its inputs in the backward pass."""
    degrees, plan = session.plan.degrees, session.plan
    if degrees.tp == 1:
        return []
    model = _model(session, facts.parts)
    owned: list[str] | None = None
    if plan.stage_bounds:
        every = sections(model)
        owned = [name for a, b in _bounds(session, stages) for section in every[a:b] for name in section.owns]
    names = {id(module): name for name, module in model.named_modules()}
    again = session.config.train.activation_checkpointing != "none"
    inner = {names[id(module)] for block in blocks(model) for module in block.modules()} if again else set()
    size, calls = 0.0, 0
    for name, how in (parallel_plan(model) or {}).items():
        if owned is not None and not any(name == own or name.startswith(f"{own}.") for own in owned):
            continue
        kind = how.partition("/")[0]
        times = 2 if kind == "rows" and name in inner else 1
        moved = facts.sizes.outputs[name] if kind == "rows" else facts.sizes.inputs[name] if kind == "columns" else 0
        size += times * moved
        calls += times * bool(moved)
    return [
        all_reduce("sums within layers", size * _examples(session), calls * plan.accumulation, degrees.tp, 1, "nothing")
    ]


def _pipeline_traffic(session: Session, facts: _Facts, stages: tuple[int, ...]) -> list[Traffic]:
    """Activations to the next stage, gradients back to the one before, of each micro-batch."""
    degrees, bounds = session.plan.degrees, session.plan.stage_bounds
    if degrees.pp == 1:
        return []
    forward = [facts.sizes.boundaries[bounds[stage + 1] - 1] for stage in stages if stage + 2 < len(bounds)]
    back = [facts.sizes.boundaries[bounds[stage] - 1] for stage in stages if stage]
    messages = session.plan.accumulation * len(forward + back)
    size = float(sum(forward + back)) * _examples(session)
    stride = degrees.tp * degrees.shard * degrees.dp
    return [Traffic("between stages", size, messages, degrees.pp, stride, "nothing", ring=False)]


def _missing(session: Session) -> tuple[str, ...]:
    launch, ranks = session.config.launch, session.plan.ranks
    if not isinstance(launch, Local):
        return (f"launch=local launch.world={ranks} and the figures of its devices and links",)
    per_node = _per_node(launch, ranks)
    needed = {
        "device_tflops": launch.device_tflops,
        "link_gbps": launch.link_gbps,
        "ranks_per_node": per_node,
        "node_link_gbps": launch.node_link_gbps if ranks > (per_node or ranks) else 0.0,
    }
    return tuple(f"launch.{name}=N" for name, value in needed.items() if value is None)


def _per_node(launch: Local, ranks: int) -> int | None:
    """Ranks of a node; all ranks that are really there are on this one."""
    return launch.ranks_per_node or (ranks if launch.world is None else None)


def _step(session: Session, rank: ForeseenRank) -> StepTime:
    launch, plan, layout = session.config.launch, session.plan, session.config.parallel
    passes = 4 if session.config.train.activation_checkpointing == "full" else 3
    links = Links(
        rank=1e9 / 8 * launch.link_gbps,
        node=1e9 / 8 * (launch.node_link_gbps or launch.link_gbps),
        ranks_per_node=_per_node(launch, plan.ranks) or plan.ranks,
        latency_s=1e-6 * launch.latency_us,
    )
    return step_time(
        passes * rank.flops / (1e12 * launch.device_tflops * launch.utilisation),
        rank.traffic,
        links,
        stages=plan.degrees.pp,
        stages_per_rank=layout.stages_per_rank,
        micro_batches=plan.accumulation,
        backward=(passes - 1) / passes,
    )


def _rank_lines(rank: ForeseenRank) -> list[tuple[str, str]]:
    names = ("weights", "gradients", "optimizer", "averages", "activations", "teacher")
    held = {name: getattr(rank, name) for name in names}
    where = f"stage{'s' if len(rank.stages) > 1 else ''} {', '.join(map(str, rank.stages))}, shard {rank.shard}: "
    rows = [
        (
            f"rank {rank.rank}",
            f"{where}{format_count(rank.parameters)} parameters; about {format_bytes(rank.total)}: "
            + ", ".join(f"{name} {format_bytes(size)}" for name, size in held.items() if size),
        )
    ]
    if rank.traffic:
        total = sum(item.bytes for item in rank.traffic)
        parts = ", ".join(f"{item.name} {format_bytes(item.bytes)}" for item in rank.traffic)
        rows.append(("", f"sends {format_bytes(total)} a step: {parts}"))
    return rows


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
