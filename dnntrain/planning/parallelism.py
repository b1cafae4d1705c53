"""How a plan lays a run out: its ranks, the degrees of parallelism, a pipeline's stages, and the micro-batches of a step."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np

from dnntrain.choices.parallel.auto import choose
from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.parallel_dims import Degrees, balanced
from dnntrain.errors import ConfigError
from dnntrain.input.order import Schedule
from dnntrain.planning.batch_size import schedules_batch_size
from dnntrain.planning.plan import ModelFacts
from dnntrain.utils.epochs import LEFT_OUT, Timetable
from dnntrain.utils.hardware import Hardware
from dnntrain.utils.world import World


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
    count_of_ranks = "launch.nproc" if getattr(config.launch, "world", None) is None else "launch.world"
    try:
        degrees: Degrees = config.parallel.build(ranks)
    except ConfigError as error:
        raise ConfigError(error.message, error.hint.replace("launch.nproc", count_of_ranks)) from None
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
                f"use parallel.tp={fits} {count_of_ranks}={ranks // degrees.tp * fits}"
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
            f"{count} micro-batches are fewer than the {stages} stages of the pipeline (parallel.pp={degrees.pp} × "
            f"parallel.stages_per_rank={config.parallel.stages_per_rank}), most of which would wait",
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
