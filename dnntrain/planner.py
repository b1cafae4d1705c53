"""(configuration, hardware, facts of data and model) → Plan: every decision of a run, made before anything is allocated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from dnntrain.batch_sizes import batch_sizes, counting, schedules_batch_size
from dnntrain.config.run import RunConfig
from dnntrain.data.order import Schedule
from dnntrain.errors import ConfigError, DataError
from dnntrain.hardware import Hardware
from dnntrain.model.cost import FORWARD_WORK
from dnntrain.norm.convert import NormFacts
from dnntrain.parallel.auto import choose
from dnntrain.parallel.degrees import Degrees, balanced, computes_together, layout_name
from dnntrain.precision.policy import Policy
from dnntrain.protocols import Context, Moment, Parts, Target
from dnntrain.quant.post_training import PostTraining
from dnntrain.rules import refusals, scheduled, unmet_needs
from dnntrain.rules_layout import LayoutFacts, layout_refusals
from dnntrain.timetable import LEFT_OUT, Timetable
from dnntrain.units import format_bytes, format_count
from dnntrain.world import World

#: Learning rates that a plan holds, and the letters that draw them.
_CURVE_POINTS = 40
_BARS = "▁▂▃▄▅▆▇█"

#: Examples are prepared in blocks: two of 4 MiB as floats and one of bytes are alive.
_CHUNK_BYTES = 10 * 2**20


#: Libraries that are imported after the plan: what torch's optimizers bring along, and the plots of the report.
_LATER_LIBRARIES_BYTES = 270 * 2**20

#: Tensors of the size of the largest activation that a training step holds besides what it keeps: gradients, work space. Measured.
TRAINING_WORK = 4.0


@dataclass(frozen=True)
class DataFacts:
    """Sizes of the data set: examples of each part, bytes of one example and of what is held resident."""

    name: str
    train: int
    val: int
    test: int
    input_shape: tuple[int, int, int]
    num_classes: int
    resident: bool

    @property
    def bytes(self) -> int:
        """uint8 bytes held in memory: training and test split where resident."""
        return (self.train + self.val + self.test) * math.prod(self.input_shape) if self.resident else 0


@dataclass(frozen=True)
class ModelFacts:
    """Cost of the model: parameters, forward FLOPs, bytes kept for the backward pass and of the largest activation, of one example.

    batch_norms       layers of batch normalisation
    blocks            parts whose activations may be computed anew
    divided           (layer, number that parallel.tp must divide) of its tensor-parallel plan; empty where it has none
    section_flops     cost of each section that a pipeline may be cut at; empty where it cannot be cut
    """

    name: str
    parameters: int
    flops_per_example: float
    activation_bytes_per_example: float
    largest_activation_bytes: float
    convolutional: bool
    batch_norms: int = 0
    blocks: int = 0
    divided: tuple[tuple[str, int], ...] = ()
    section_flops: tuple[float, ...] = ()


@dataclass(frozen=True)
class Memory:
    """Estimated peak of one rank, bytes. `teacher_…`: of what teaches, on each rank; see `with_teacher`."""

    process: int
    weights: int
    gradients: int
    optimizer: int
    averages: int
    activations: int
    data: int
    teacher_weights: int = 0
    teacher_activations: int = 0

    @property
    def teacher(self) -> int:
        return self.teacher_weights + self.teacher_activations

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Plan:
    """What will run. `batch_size` = data ranks * accumulation * micro_batch_size, where that divides; else the last parts are smaller.

    Where the batch size is scheduled, `timetable` has that of each epoch, `batch_size` is what was set, `accumulation` and
    `micro_batch_size` are those of the largest batch, and `steps_per_epoch` is that of the first epoch.
    `schedule` holds what is scheduled, at even distances from the first step to the last: "lr" and, where the schedule sets it, "momentum";
    what else it multiplies, as factors of what was set ("weight_decay ×").
    """

    name: str
    layout: str
    ranks: int
    degrees: Degrees
    stage_bounds: tuple[int, ...]
    device: str
    data: DataFacts
    model: ModelFacts
    batch_size: int
    micro_batch_size: int
    accumulation: int
    steps_per_epoch: int
    timetable: Timetable
    total_steps: int
    duration: str
    base_learning_rate: float
    base_learning_rate_equation: str
    precision: Policy
    channels_last: bool
    compile: bool
    memory: Memory
    schedule: Mapping[str, tuple[float, ...]]
    notes: tuple[str, ...]

    @property
    def _batch(self) -> str:
        sizes = self.timetable.sizes
        return str(sizes[-1]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}; {sizes[-1]}"

    @property
    def _steps(self) -> str:
        sizes = self.timetable.sizes
        steps = [-(-self.timetable.examples // size) for size in (sizes[-1], sizes[0])]
        return str(steps[0]) if len(sizes) == 1 else f"{steps[0]} to {steps[1]}"

    @property
    def in_step(self) -> bool:
        """True where all ranks must call the model equally often: a forward pass is work of several ranks."""
        return computes_together(self.layout, self.degrees)

    @property
    def _teacher(self) -> str:
        weights, activations = map(format_bytes, (self.memory.teacher_weights, self.memory.teacher_activations))
        return f"holds {format_bytes(self.memory.teacher)} of that on each rank: {weights} of weights, {activations} to compute"

    def as_json(self) -> dict[str, Any]:
        """plan.json."""
        return {
            **asdict(self),
            "precision": {"name": self.precision.name, "reason": self.precision.reason},
            "memory_bytes": self.memory.total,
            "flops_per_step": 3 * self.model.flops_per_example * self.batch_size,
        }

    def lines(self) -> list[tuple[str, str]]:
        """(label, text) rows for a person."""
        total = f"{self.total_steps} steps" if self.total_steps else "as many steps as fit"
        accumulated = "in the pipeline" if self.degrees.pp > 1 else "accumulated"
        equation = f"{self.degrees.data_ranks} data ranks × {self.accumulation} {accumulated} × {self.micro_batch_size}"
        rows = [
            ("run", self.name),
            ("data", f"{self.data.name}: {self.data.train} train, {self.data.val} val, {self.data.test} test"),
            (
                "",
                f"{'×'.join(map(str, self.data.input_shape))} pixels, {self.data.num_classes} classes, "
                f"{'resident' if self.data.resident else 'streaming'}",
            ),
            (
                "model",
                f"{self.model.name}: {format_count(self.model.parameters)} parameters, "
                f"{format_count(self.model.flops_per_example)}FLOPs forward",
            ),
            ("layout", f"{self.layout} on {self.device}" + (f": {self.degrees}" if self.ranks > 1 else "")),
            ("batch", f"{self._batch} = {equation}"),
            ("length", f"{self.duration}: {total}, {self._steps} per epoch"),
            ("base lr", self.base_learning_rate_equation),
            *((name, curve_text(values, self.total_steps)) for name, values in self.schedule.items()),
            ("precision", f"{self.precision.name} ({self.precision.reason})"),
            (
                "format",
                f"{'channels last' if self.channels_last else 'channels first'}, "
                f"{'compiled' if self.compile else 'not compiled'}",
            ),
            (
                "memory",
                f"about {format_bytes(self.memory.total)} at the peak: "
                + ", ".join(
                    f"{name.replace('_', ' ')} {format_bytes(size)}"
                    for name, size in asdict(self.memory).items()
                    if size
                ),
            ),
        ]
        if self.memory.teacher:
            rows.append(("teacher", self._teacher))
        return rows + [("note", note) for note in self.notes]


def make_plan(
    config: RunConfig,
    hardware: Hardware,
    world: World,
    data: DataFacts,
    model: ModelFacts,
    process_bytes: int,
    planned: bool = False,
) -> Plan:
    """Decides everything or refuses: ConfigError lists every reason, DataError where the data set is too small.

    `process_bytes` is what the process holds with its libraries and the data, before anything is built. What is only `planned` may have
    ranks that are not there (`launch.world`).
    """
    ranks = ranks_of(config, hardware, world, planned)
    if reasons := refusals(config, hardware, ranks):
        raise ConfigError.of(reasons)
    batch_size = config.train.batch_size
    if batch_size > data.train and not schedules_batch_size(config):
        raise DataError(
            f"train.batch_size={batch_size} is more than the {data.train} training examples of {data.name}",
            f"use train.batch_size={data.train} or less",
        )
    blank = _context(config, data)
    counted = counting(config, blank)
    sizes = batch_sizes(config, counted, data.train)
    timetable = sizes.timetable
    degrees, stage_bounds, layout_notes = place_model(config, hardware, ranks, model, sizes.largest)
    layout = layout_name(config.parallel)
    # FSDP2 and the messages of ranks that compute together take contiguous tensors only.
    contiguous = computes_together(layout, degrees)
    facts = LayoutFacts(model.convolutional, model.blocks, contiguous)
    cuts = micro_batches(config, degrees, data.train, timetable)
    micro, accumulation = (max(numbers) for numbers in zip(*cuts.values(), strict=True))
    if reasons := [
        *layout_refusals(config, hardware, degrees, facts, sizes),
        *unmet_needs(config, degrees, micro, sizes),
    ]:
        raise ConfigError.of(reasons)
    check_pipeline(config, degrees, model, timetable, accumulation)
    duration = config.train.duration
    total = 0 if duration.unit == "s" else max(1, timetable.steps_of(duration, 0))
    policy: Policy = config.precision.build(hardware)
    # FSDP2 and the pipeline's messages take contiguous tensors only.
    channels_last = model.convolutional and config.train.channels_last != "off" and not contiguous
    compiled, compile_note = _compile(config, hardware, total, degrees)
    found = (
        *layout_notes,
        compile_note,
        _uneven(timetable),
        _too_large(micro, config),
    )
    notes = [note for note in found if note]
    if getattr(config.sched, "looks_at_validation", False):
        notes.append("the learning rate is that of the base schedule, scaled by what each evaluation finds")
    notes += _batch_notes(config, timetable, degrees)
    notes += config.distill.notes(data.num_classes) if hasattr(config.distill, "notes") else ()
    notes += config.quant.notes(data.train) if isinstance(config.quant, PostTraining) else ()
    for size, cut in cuts.items():
        found_notes = _norm_notes(config, NormFacts(degrees.data_ranks, size, *cut, model.batch_norms))
        notes += [note for note in found_notes if size == sizes.largest]
    return Plan(
        name=config.name,
        layout=layout,
        ranks=ranks,
        degrees=degrees,
        stage_bounds=stage_bounds,
        device=hardware.device,
        data=data,
        model=model,
        batch_size=batch_size,
        micro_batch_size=micro,
        accumulation=accumulation,
        steps_per_epoch=timetable.steps(0),
        timetable=timetable,
        total_steps=total,
        duration=str(duration),
        base_learning_rate=config.optim.scaled(batch_size).lr,
        base_learning_rate_equation=config.optim.equation(batch_size),
        precision=policy,
        channels_last=channels_last,
        compile=compiled,
        memory=_memory(config, data, model, micro, policy, process_bytes, degrees),
        schedule=_schedule(config, replace(counted, **known(timetable, total)), timetable),
        notes=tuple(notes),
    )


def with_teacher(plan: Plan, parts: Parts) -> Plan:
    """`plan` with the memory of what teaches: it is known once the methods are built."""
    held = [held(plan.degrees.shard) for held in parts.held]
    memory = replace(
        plan.memory,
        teacher_weights=sum(item.weights for item in held),
        teacher_activations=sum(item.activations for item in held),
    )
    return replace(plan, memory=memory)


def curve_text(values: Sequence[float], total_steps: int) -> str:
    """`▁▅█▆▁ 0.01, 0.1 near step 50, 0.001`: a picture of the values; the first, highest and lowest between, and the last."""

    def told(value: float) -> tuple[int, str]:
        at = values.index(value)
        share = at / max(len(values) - 1, 1)
        return (
            at,
            f"{value:.3g} near {f'step {round(share * (total_steps - 1))}' if total_steps else f'{100 * share:.0f} %'}",
        )

    between = sorted(told(value) for value in {max(values), min(values)} - {values[0], values[-1]})
    return f"{bars(values)} {', '.join([f'{values[0]:.3g}', *(text for _, text in between), f'{values[-1]:.3g}'])}"


def bars(values: Sequence[float], most: int = _CURVE_POINTS) -> str:
    """At most `most` of the values, none below 0, as letters whose height is the part of the highest."""
    points = min(most, len(values))
    kept = [values[round(index * (len(values) - 1) / max(points - 1, 1))] for index in range(points)]
    highest = max(kept, default=0.0)
    return "".join(_BARS[round((len(_BARS) - 1) * value / highest)] if highest else _BARS[0] for value in kept)


def _context(config: RunConfig, data: DataFacts) -> Context:
    """What a schedule is built from, before the length of the run is known."""
    batch_size = config.train.batch_size
    return Context(
        seed=config.seed,
        num_classes=data.num_classes,
        input_shape=data.input_shape,
        steps_per_epoch=0,
        total_steps=0,
        batch_size=batch_size,
        learning_rate=config.optim.scaled(batch_size).lr,
    )


def known(timetable: Timetable, total_steps: int) -> dict[str, Any]:
    """What a context has of a run whose timetable is known."""
    steps_per_epoch = timetable.steps(0) if timetable.is_constant else 0
    return {"timetable": timetable, "steps_per_epoch": steps_per_epoch, "total_steps": total_steps}


def _schedule(config: RunConfig, context: Context, timetable: Timetable) -> dict[str, tuple[float, ...]]:
    """What the schedule alone makes of each value. Raises ConfigError where it does not fit the run."""
    total_steps = context.total_steps
    controls = config.sched.build(context).controls
    factors = [control.value for control in controls if control.target is Target.LEARNING_RATE]
    others = {
        f"{control.target.value}{' ×' if control.relative else ''}": control.value
        for control in controls
        if isinstance(control.target, Target) and control.target not in (Target.LEARNING_RATE, Target.BATCH_SIZE)
    }
    points = min(_CURVE_POINTS, total_steps or _CURVE_POINTS)
    shares = [index / max(points - 1, 1) for index in range(points)]
    moments = [
        Moment(step, timetable.epoch_at(step), step / total_steps) if total_steps else Moment(0, 0.0, share)
        for share in shares
        for step in [round(share * (total_steps - 1))]
    ]
    rates = tuple(context.learning_rate * math.prod([value(moment) for value in factors]) for moment in moments)
    sizes = tuple(float(timetable.size(timetable.place(moment.step)[0])) for moment in moments)
    return {
        "lr": rates,
        **{name: tuple(value(moment) for moment in moments) for name, value in others.items()},
        **({"batch size": sizes} if schedules_batch_size(config) else {}),
    }


def ranks_of(config: RunConfig, hardware: Hardware, world: World, planned: bool = False) -> int:
    """Processes of the run: those that torchrun started, or what the layout wants; where it is only planned, those it is planned for.

    Raises ConfigError where a run that is to be trained, or `launch.nproc`, has another number than `launch.world`.
    """
    stated: int | None = getattr(config.launch, "world", None)
    if stated is not None and planned and config.launch.nproc in (None, stated):
        return stated
    ranks = _ranks_there(config, hardware, world)
    if stated not in (None, ranks):
        raise ConfigError(
            f"launch.world={stated} is for planning, and this run has {ranks} process{'' if ranks == 1 else 'es'}",
            f"use dnntrain plan without launch.nproc, or leave launch.world out and start {stated} ranks",
        )
    return ranks


def _ranks_there(config: RunConfig, hardware: Hardware, world: World) -> int:
    if world.launched:
        return world.size
    if config.parallel.processes == "one":
        return 1
    if config.launch.nproc is None and config.parallel.stated_ranks is not None:
        stated: int = config.parallel.stated_ranks
        return stated
    processes: int = config.launch.build(hardware.device_count if hardware.device == "cuda" else 0)
    return processes


def place_model(
    config: RunConfig, hardware: Hardware, ranks: int, model: ModelFacts, batch_size: int
) -> tuple[Degrees, tuple[int, ...], list[str]]:
    """(degrees, bounds of the pipeline's stages, notes). Raises ConfigError where the model cannot be laid out so."""
    notes: list[str] = []
    degrees: Degrees = config.parallel.build(ranks)
    if type(config.parallel).__name__ == "Auto":
        state = 4 * model.parameters * (2 + config.optim.state_numbers)
        other = model.activation_bytes_per_example * math.ceil(batch_size / ranks)
        # On a machine without accelerators its ranks share one memory.
        room = hardware.memory_bytes / (ranks if hardware.device == "cpu" else 1)
        degrees, reason = choose(ranks, state, other, room, config.parallel.headroom)
        notes.append(f"parallel=auto: {reason}")
    for layer, size in model.divided if degrees.tp > 1 else ():
        if size % degrees.tp:
            common = math.gcd(*(width for _, width in model.divided))
            fits = max(degree for degree in range(1, degrees.tp) if common % degree == 0)
            raise ConfigError(
                f"parallel.tp={degrees.tp} does not divide {size}, the width of {layer} in {model.name}",
                f"use parallel.tp={fits} launch.nproc={ranks // degrees.tp * fits}"
                if fits > 1
                else "use parallel=ddp or parallel=fsdp",
            )
    if degrees.tp > 1 and not model.divided:
        raise ConfigError(
            f"parallel.tp={degrees.tp}: {model.name} has no plan that says how its layers are divided",
            "use parallel=ddp or parallel=fsdp, or a model with a plan: mlp, vit_tiny, seed_cnn, resnet_cifar, resnet18, wide_resnet",
        )
    bounds: tuple[int, ...] = ()
    if degrees.pp > 1:
        stages = degrees.pp * config.parallel.stages_per_rank
        count = len(model.section_flops)
        if not count:
            raise ConfigError(
                f"parallel.pp={degrees.pp}: {model.name} does not state sections that it can be cut at",
                "use parallel=ddp or parallel=fsdp",
            )
        if stages > count:
            raise ConfigError(
                f"parallel.pp={degrees.pp} × parallel.stages_per_rank={config.parallel.stages_per_rank} = {stages} stages, "
                f"but {model.name} has {count} sections",
                f"use parallel.pp={count} or less, with one stage a rank",
            )
        bounds = tuple(balanced(model.section_flops, stages))
        total = sum(model.section_flops) or 1.0
        shares = [sum(model.section_flops[a:b]) / total for a, b in itertools.pairwise(bounds)]
        notes.append(
            "pipeline stages and their part of the work: "
            + ", ".join(
                f"sections {a}–{b - 1} {share:.0%}"
                for (a, b), share in zip(itertools.pairwise(bounds), shares, strict=True)
            )
        )
    return degrees, bounds, notes


def micro_batches(
    config: RunConfig, degrees: Degrees, examples: int, timetable: Timetable
) -> dict[int, tuple[int, int]]:
    """For each batch size (examples of the largest micro-batch, how many a data rank computes in a step at most), as the data pipeline
    will cut them.
    """
    # Pair blocks make some shares larger than the even one: without train.microbatch each is one forward pass all the same.
    world = World(0, degrees.data_ranks)
    first = Schedule(np.arange(examples), config.seed, 1, 1, world, config.data.pair_block)
    cuts = [replace(first, batch_size=size, micro_batch_size=size) for size in timetable.sizes]
    shares = {cut.batch_size: [cut.share(cut.batch_size, rank) for rank in range(world.size)] for cut in cuts}
    share = max(end - start for found in shares.values() for start, end in found)
    stages = degrees.pp * getattr(config.parallel, "stages_per_rank", 1)
    wanted = config.train.microbatch or (_pipelined(share, stages, config.data.pair_block) if degrees.pp > 1 else share)
    found = {}
    for cut in cuts:
        schedule = replace(cut, micro_batch_size=min(wanted, share))
        ranges = [schedule.micro_ranges(one) for one in shares[cut.batch_size]]
        largest = max(end - start for one in ranges for start, end in one)
        found[cut.batch_size] = largest, max(len(one) for one in ranges)
    return found


def _pipelined(share: int, stages: int, block: int) -> int:
    """Examples of a pipeline's micro-batch: two for each stage, or one where that would cut pair blocks."""
    wanted = math.ceil(share / (2 * stages))
    return block if wanted < block and share // block >= stages else wanted


def check_pipeline(config: RunConfig, degrees: Degrees, model: ModelFacts, timetable: Timetable, count: int) -> None:
    """Refuses what a pipeline cannot do exactly: too few micro-batches, or padding that batch norm would see."""
    if degrees.pp == 1:
        return
    if getattr(config.norm, "precise", 0):
        raise ConfigError(
            f"norm.precise={config.norm.precise} calls the whole model, of which a pipeline's rank has a stage",
            "use norm.precise=0, or another layout",
        )
    stages = degrees.pp * config.parallel.stages_per_rank
    examples, size = timetable.examples, timetable.sizes[-1]
    if count < stages:
        raise ConfigError(
            f"{count} micro-batches are fewer than the {stages} stages of the pipeline, most of which would wait",
            _enough(config, degrees, timetable),
        )
    if config.parallel.schedule == "interleaved" and count % degrees.pp:
        raise ConfigError(
            f"parallel.schedule=interleaved needs a number of micro-batches that parallel.pp={degrees.pp} divides, not {count}",
            f"{_enough(config, degrees, timetable)}, or parallel.schedule=1f1b parallel.stages_per_rank=1",
        )
    uneven = examples % size or size % (degrees.data_ranks * count)
    if not timetable.is_constant and model.batch_norms and getattr(config.norm, "batch_statistics", True):
        raise ConfigError(
            "micro-batches of a pipeline have one size and number, so that smaller batches of sched.param=batch_size are padded, and "
            "batch norm would see the padding",
            "use norm=group, or leave batch_size out of sched.param",
        )
    if uneven and model.batch_norms and getattr(config.norm, "batch_statistics", True):
        raise ConfigError(
            "micro-batches of a pipeline have one size, so that uneven ones are padded, and batch norm would see the padding: "
            f"{examples} examples, train.batch_size={size}, {count} micro-batches on each data rank",
            f"use norm=group, or train.limit={examples - examples % size} and a batch that divides",
        )


def _enough(config: RunConfig, degrees: Degrees, timetable: Timetable) -> str:
    """A train.microbatch that cuts the largest batch into as many micro-batches as the pipeline needs, or a batch that can be.

    The largest that is not above what was asked for, else the next above.
    """
    stages = degrees.pp * config.parallel.stages_per_rank
    multiple = degrees.pp if config.parallel.schedule == "interleaved" else 1
    share = math.ceil(timetable.sizes[-1] / degrees.data_ranks)
    asked_size = config.train.microbatch or share
    sizes = {math.ceil(share / count) for count in range(stages, 4 * stages + 1)}
    for size in sorted(sizes, key=lambda size: (size > asked_size, abs(size - asked_size))):
        asked = replace(config, train=replace(config.train, microbatch=size))
        count = max(cut[1] for cut in micro_batches(asked, degrees, timetable.examples, timetable).values())
        if count >= stages and count % multiple == 0:
            return f"use train.microbatch={size}"
    if schedules_batch_size(config):
        return LEFT_OUT
    return f"use train.batch_size={stages * degrees.data_ranks} train.microbatch=1"


def _compile(config: RunConfig, hardware: Hardware, total_steps: int, degrees: Degrees) -> tuple[bool, str]:
    if degrees.pp > 1:
        return False, ""
    if config.train.compile != "auto":
        return config.train.compile == "on", ""
    if hardware.device == "cuda" and total_steps >= 2000 and "drop_rate" not in scheduled(config):
        return True, "compiled: 2000 steps or more on a GPU repay the compilation"
    return False, ""


def _norm_notes(config: RunConfig, facts: NormFacts) -> Sequence[str]:
    """Raises ConfigError where the norm does not do with these batches, and says which they are where the schedule makes them."""
    try:
        notes: Sequence[str] = config.norm.notes(facts)
    except ConfigError as error:
        if facts.batch_size == config.train.batch_size:
            raise
        where = f"in a batch of {facts.batch_size} (train.batch_size={config.train.batch_size} as sched.param=batch_size makes it)"
        raise ConfigError(f"{error.message}, {where}", f"{error.hint}, or {LEFT_OUT}") from None
    return notes


def _batch_notes(config: RunConfig, timetable: Timetable, degrees: Degrees) -> list[str]:
    """What follows from a scheduled batch size."""
    if timetable.is_constant:
        return []
    notes = [
        "the batch size changes between epochs; micro-batches, memory and the batch above are those of the largest"
    ]
    if config.optim.lr_scaling != "none":
        notes.append(f"optim.lr_scaling goes by train.batch_size={config.train.batch_size}, not by the scheduled size")
    if degrees.pp > 1:
        notes.append("a pipeline pads smaller batches: each step costs what one of the largest batch does")
    return notes


def _uneven(timetable: Timetable) -> str:
    rest = timetable.examples % timetable.sizes[-1] if timetable.is_constant else 0
    return f"the last batch of an epoch has {rest} examples; its mean is over those" if rest else ""


def _too_large(micro: int, config: RunConfig) -> str:
    asked = config.train.microbatch
    return f"train.microbatch={asked} is more than a rank's share; {micro} is used" if asked and asked > micro else ""


def _memory(
    config: RunConfig,
    data: DataFacts,
    model: ModelFacts,
    micro: int,
    policy: Policy,
    process_bytes: int,
    degrees: Degrees,
) -> Memory:
    weights = 4 * model.parameters // (degrees.shard * degrees.tp * degrees.pp)
    half = 0.5 if policy.autocast else 1.0
    kept = model.activation_bytes_per_example * half
    largest = model.largest_activation_bytes * half
    training = micro * (kept + TRAINING_WORK * largest)
    evaluating = min(config.eval.batch_size, max(data.val, data.test)) * FORWARD_WORK * largest
    return Memory(
        process=process_bytes - data.bytes + _LATER_LIBRARIES_BYTES,
        weights=weights,
        gradients=weights,
        optimizer=int(weights * config.optim.state_numbers),
        averages=weights if "ema" in config.reg else 0,
        activations=int(training + evaluating),
        data=data.bytes + min(_CHUNK_BYTES, 4 * data.train * math.prod(data.input_shape)),
    )
