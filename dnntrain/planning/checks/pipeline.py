"""Check that the batches of a run fit a pipeline."""

from __future__ import annotations

import math
from dataclasses import replace

from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.parallel_dims import ParallelDims
from dnntrain.errors import ConfigError
from dnntrain.planning.batch_size import is_batch_size_scheduled
from dnntrain.planning.parallelism import compute_micro_batches, cut_all_ranks, make_batch_schedule
from dnntrain.planning.plan import ModelFacts
from dnntrain.utils.epochs import LEAVE_OUT_HINT, EpochSchedule


def check_pipeline(
    config: RunConfig,
    dims: ParallelDims,
    model: ModelFacts,
    timetable: EpochSchedule,
    micro_batch_size: int,
    micro_batch_count: int,
) -> None:
    """Check that a pipeline computes the batches exactly.

    Raises ConfigError if there are too few micro-batches, or if batch norm would see padding.
    """
    if dims.pp == 1:
        return
    stages = dims.pp * config.parallel.stages_per_rank
    examples, size = timetable.examples, timetable.sizes[-1]
    if micro_batch_count < stages:
        raise ConfigError(
            f"{micro_batch_count} micro-batches are fewer than the {stages} stages of the pipeline "
            f"(parallel.pp={dims.pp} × "
            f"parallel.stages_per_rank={config.parallel.stages_per_rank}), so most stages would be idle",
            _suggest_micro_batch(config, dims, timetable),
        )
    if config.parallel.schedule == "interleaved" and micro_batch_count % dims.pp:
        raise ConfigError(
            "parallel.schedule=interleaved: the number of micro-batches must be a multiple of "
            f"parallel.pp={dims.pp}, not {micro_batch_count}",
            f"{_suggest_micro_batch(config, dims, timetable)}, or parallel.schedule=1f1b parallel.stages_per_rank=1",
        )
    schedule = replace(make_batch_schedule(config, dims, timetable), batch_size=size, micro_batch_size=micro_batch_size)
    cuts_unevenly = any(
        [end - start for start, end in passes] != [micro_batch_size] * micro_batch_count
        for passes in cut_all_ranks(schedule, size)
    )
    is_uneven = cuts_unevenly or timetable.count_last_examples(size)
    if not timetable.is_constant and model.batch_norms and config.norm.batch_statistics:
        raise ConfigError(
            "a pipeline pads the smaller batches of sched.applies_to=batch_size, because its micro-batches "
            "have one size and number, "
            "and batch norm would see the padding",
            "use norm=group, or leave batch_size out of sched.applies_to",
        )
    if is_uneven and model.batch_norms and config.norm.batch_statistics:
        raise ConfigError(
            "a pipeline pads uneven micro-batches, because its micro-batches have one size, and batch norm "
            "would see the padding: "
            f"{examples} examples, train.batch_size={size}, {micro_batch_count} micro-batches on each data rank",
            f"use norm=group, or {'a batch that divides' if cuts_unevenly else 'train.drop_last=true'}",
        )


def _suggest_micro_batch(config: RunConfig, dims: ParallelDims, timetable: EpochSchedule) -> str:
    """Return a hint that gives the pipeline enough micro-batches.

    It names the largest train.micro_batch_size up to the requested size that does so, else the
    smallest above it. If there is none, it names a batch size that can be split.
    """
    stages = dims.pp * config.parallel.stages_per_rank
    multiple = dims.pp if config.parallel.schedule == "interleaved" else 1
    share = math.ceil(timetable.sizes[-1] / dims.data_ranks)
    requested_size = config.train.micro_batch_size or share
    sizes = {math.ceil(share / count) for count in range(stages, 4 * stages + 1)}
    for size in sorted(sizes, key=lambda size: (size > requested_size, abs(size - requested_size))):
        candidate = replace(config, train=replace(config.train, micro_batch_size=size))
        count = max(
            micro_batch_cut[1]
            for micro_batch_cut in compute_micro_batches(candidate, dims, timetable.examples, timetable).values()
        )
        if count >= stages and count % multiple == 0:
            return f"use train.micro_batch_size={size}"
    if is_batch_size_scheduled(config):
        return LEAVE_OUT_HINT
    return f"use train.batch_size={stages * dims.data_ranks} train.micro_batch_size=1"
