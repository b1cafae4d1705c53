"""Plan ranks, degrees of parallelism, pipeline stages and micro-batches."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np

from dnntrain.config.run_config import LightConfig, RunConfig
from dnntrain.distributed.parallel_dims import ParallelDims, partition_costs
from dnntrain.errors import ConfigError
from dnntrain.input.sampler import BatchSchedule, PositionRange
from dnntrain.planning.plan import ModelFacts
from dnntrain.protocols import DeviceDemand, Method
from dnntrain.utils.epochs import EpochSchedule
from dnntrain.utils.hardware import Hardware
from dnntrain.utils.units import pluralize
from dnntrain.utils.world import World, read_local_size

#: Largest number of processes of a run: plans list them one by one.
_MAX_RANKS = 2**16


def count_ranks(config: LightConfig, hardware: Hardware, world: World, plan_only: bool = False) -> int:
    """Return the number of processes of the run.

    It is the number that torchrun started, or else the number of the layout. If the run is only
    planned, it is `cluster.world_size`. Raises ConfigError if `cluster.world_size` differs from the
    number of ranks of a run that is trained, or from `launch.nproc`.
    """
    ranks = count_known_ranks(config, hardware, world, plan_only)
    assert ranks is not None
    return ranks


def count_known_ranks(
    config: LightConfig, hardware: Hardware | None, world: World, plan_only: bool = False
) -> int | None:
    """Return `count_ranks`, or None if it depends on hardware that is not known."""
    planned_ranks = config.cluster.world_size
    if planned_ranks is not None and plan_only and config.launch.nproc in (None, planned_ranks):
        return planned_ranks
    ranks = _count_started_ranks(config, hardware, world)
    if ranks is None:
        return None
    if hardware is not None and not plan_only and (world.is_launched or not config.launch.scheduler):
        check_gpu_count(config, hardware, read_local_size() or world.local_rank + 1 if world.is_launched else ranks)
    if ranks > _MAX_RANKS:
        raise ConfigError(
            f"launch.nproc starts {ranks} processes; a run must have at most {_MAX_RANKS}",
            "leave launch.nproc out: there is then one process per accelerator",
        )
    if planned_ranks not in (None, ranks):
        raise ConfigError(
            f"cluster.world_size={planned_ranks} is for planning only, but this run has {ranks} "
            f"process{'' if ranks == 1 else 'es'}",
            f"use dnntrain plan without launch.nproc, or leave cluster.world_size out and start {planned_ranks} ranks",
        )
    return ranks


def check_gpu_count(config: LightConfig, hardware: Hardware, ranks: int) -> None:
    """Raise ConfigError if this machine has fewer GPUs than its `ranks`, each of which needs its own."""
    if hardware.device != "cuda" or ranks <= hardware.device_count:
        return
    count = hardware.device_count
    source = f"launch.nproc={ranks}" if config.launch.nproc == ranks else pluralize(ranks, "rank")
    few = "launch.nproc=1 parallel=single" if count == 1 else f"launch.nproc={count}"
    raise ConfigError(
        f"{source}: each rank needs a GPU of its own, but this machine has {pluralize(count, 'GPU')}",
        f"use {few}, or device=cpu",
    )


def _count_started_ranks(config: LightConfig, hardware: Hardware | None, world: World) -> int | None:
    if world.is_launched:
        return world.size
    if config.parallel.processes == "one":
        return 1
    if config.launch.nproc is None and config.parallel.required_ranks is not None:
        return config.parallel.required_ranks
    if hardware is None:
        return config.launch.build(0) if config.launch.nproc is not None else None
    return config.launch.build(hardware.device_count if hardware.device == "cuda" else 0)


def get_rank_count_key(config: LightConfig) -> str:
    """Return the setting that states the number of ranks."""
    return "launch.nproc" if config.cluster.world_size is None else "cluster.world_size"


def name_rank_count(hint: str, config: LightConfig) -> str:
    """Return a layout's hint with the setting that states the number of ranks here."""
    return hint.replace("launch.nproc", get_rank_count_key(config))


def plan_parallelism(
    config: RunConfig, hardware: Hardware, ranks: int, model: ModelFacts, batch_size: int
) -> tuple[ParallelDims, tuple[int, ...], list[str]]:
    """Return the degrees of parallelism, the bounds of the pipeline stages, and notes.

    Raises ConfigError if the layout does not support the model.
    """
    notes: list[str] = []
    rank_count_key = get_rank_count_key(config)
    demand = DeviceDemand(
        state=4 * model.parameters * (2 + config.optim.state_floats_per_parameter),
        other=model.activation_bytes_per_example * math.ceil(batch_size / ranks),
        # Ranks without accelerators share the memory of their machine.
        memory=hardware.get_device_memory_bytes(ranks) / (ranks if hardware.device == "cpu" else 1),
    )
    try:
        dims, reason = config.parallel.fit(ranks, demand)
    except ConfigError as error:
        raise ConfigError(error.message, name_rank_count(error.hint, config)) from None
    if reason:
        notes.append(f"parallel={config.resolved['choices']['parallel']}: {reason}")
    if dims.tp > 1:
        _check_tensor_parallel(model, dims.tp, ranks, rank_count_key)
    bounds, stage_notes = _divide_into_stages(config, dims, model) if dims.pp > 1 else ((), [])
    return dims, bounds, [*notes, *stage_notes]


def _check_tensor_parallel(model: ModelFacts, degree: int, ranks: int, rank_count_key: str) -> None:
    """Raise ConfigError if the layers of `model` cannot be divided over `degree` ranks."""
    for layer, size in model.divided:
        if size % degree:
            common = math.gcd(*(width for _, width in model.divided))
            fits = max(other for other in range(1, degree) if common % other == 0)
            raise ConfigError(
                f"parallel.tp={degree} does not divide {size}, the width of {layer} in {model.name}",
                f"use parallel.tp={fits} {rank_count_key}={ranks // degree * fits}"
                if fits > 1
                else "use parallel=ddp or parallel=fsdp",
            )
    if not model.divided:
        raise ConfigError(
            f"{model.name} does not support parallel.tp={degree}: it does not define a tensor-parallel plan",
            "use parallel=ddp or parallel=fsdp, or a model with a plan: mlp, vit_tiny, small_cnn, "
            "resnet_cifar, resnet18, wide_resnet, gpt, hf",
        )


def _divide_into_stages(config: RunConfig, dims: ParallelDims, model: ModelFacts) -> tuple[tuple[int, ...], list[str]]:
    """Return (the bounds of the pipeline stages, a note of their shares of the work).

    Raises ConfigError if the model has too few sections.
    """
    stages = dims.pp * config.parallel.stages_per_rank
    count = len(model.section_flops)
    if not count:
        raise ConfigError(
            f"{model.name} does not support parallel.pp={dims.pp}: it does not define sections for pipeline stages",
            "use parallel=ddp or parallel=fsdp",
        )
    if stages > count:
        raise ConfigError(
            f"parallel.pp={dims.pp} × parallel.stages_per_rank={config.parallel.stages_per_rank} = "
            f"{stages} stages, "
            f"but {model.name} has {count} sections",
            f"use parallel.pp={count} or less, with parallel.stages_per_rank=1",
        )
    bounds = tuple(partition_costs(model.section_flops, stages))
    total = sum(model.section_flops) or 1.0
    shares = [sum(model.section_flops[a:b]) / total for a, b in itertools.pairwise(bounds)]
    note = "pipeline stages and their share of the work: " + ", ".join(
        f"sections {a}–{b - 1} {share:.0%}" for (a, b), share in zip(itertools.pairwise(bounds), shares, strict=True)
    )
    return bounds, [note]


def compute_micro_batches(
    config: RunConfig, dims: ParallelDims, examples: int, timetable: EpochSchedule
) -> dict[int, tuple[int, int]]:
    """Return size and number of micro-batches for each batch size.

    The size is the number of examples of the largest micro-batch. The number is the largest number of
    micro-batches of a data rank in a step. Both follow the way in which the data pipeline splits
    batches.
    """
    # Pair blocks make shares uneven. Without train.micro_batch_size, each share is still one forward pass.
    schedule = make_batch_schedule(config, dims, timetable)
    share = max(
        end - start
        for size in timetable.sizes
        for passes in cut_all_ranks(replace(schedule, batch_size=size, micro_batch_size=size), size)
        for start, end in passes
    )
    stages = dims.pp * config.parallel.stages_per_rank
    micro_batch_size = config.train.micro_batch_size or (
        _choose_micro_batch_size(share, stages, config.data.mix_block_size) if dims.pp > 1 else share
    )
    micro_batch_cuts = {}
    for size in timetable.sizes:
        passes_by_rank = cut_all_ranks(
            replace(schedule, batch_size=size, micro_batch_size=min(micro_batch_size, share)), size
        )
        largest = max(end - start for passes in passes_by_rank for start, end in passes)
        micro_batch_cuts[size] = largest, max(len(passes) for passes in passes_by_rank)
    return micro_batch_cuts


def make_batch_schedule(config: RunConfig, dims: ParallelDims, timetable: EpochSchedule) -> BatchSchedule:
    """Return the way in which the data pipeline divides steps, with a batch of one example."""
    return BatchSchedule(
        np.arange(timetable.examples),
        config.seed,
        1,
        1,
        World(0, dims.data_ranks),
        config.data.mix_block_size,
        kept_block_size=find_kept_block_size(config),
        joins_ranks=config.norm.joins_ranks,
        drop_last=timetable.drop_last,
    )


def cut_all_ranks(schedule: BatchSchedule, examples: int) -> list[list[PositionRange]]:
    """Return the micro-batches of each rank in a step of `examples`."""
    return [schedule.cut_passes(examples, rank) for rank in range(schedule.world.size)]


def find_kept_block_size(config: RunConfig) -> int:
    """Return the size of the blocks of examples that ranks do not divide, also in a short step.

    Methods that mix or relate examples need `data.mix_block_size`.
    """
    has_relation = any(
        isinstance(choice, Method) and choice.example_relation for choice in config.name_choices().values()
    )
    return math.lcm(config.data.mix_block_size if has_relation else 1, config.norm.kept_block_size)


def _choose_micro_batch_size(share: int, stages: int, block: int) -> int:
    """Return the number of examples of a micro-batch of a pipeline.

    A step has two micro-batches per stage, or one per stage if two would split pair blocks.
    """
    size = math.ceil(share / (2 * stages))
    return block if size < block and share // block >= stages else size
