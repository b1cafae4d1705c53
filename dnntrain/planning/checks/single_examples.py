"""Check that batch normalization never trains on a single number per channel."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.parallel_dims import ParallelDims
from dnntrain.planning.parallelism import compute_micro_batches, cut_all_ranks, make_batch_schedule
from dnntrain.planning.plan import ModelFacts
from dnntrain.protocols import Refusal
from dnntrain.utils.epochs import LEAVE_OUT_HINT, EpochSchedule
from dnntrain.utils.units import pluralize

#: Batch sizes above and below the configured one that are tried for the hint.
_TRIED_SIZES = 16


def find_single_example_refusals(
    config: RunConfig, dims: ParallelDims, model: ModelFacts, timetable: EpochSchedule, total_steps: int
) -> Iterator[Refusal]:
    """Find a forward pass with statistics of one example in a layer with one number per channel.

    `total_steps` is 0 if the number of steps is not known. Only steps count that the run reaches, or
    from which it recomputes statistics.
    """
    # Clients of a federated run have batches of their own.
    if model.batch_norm_values != 1 or not config.norm.batch_statistics or config.federated.is_federated:
        return
    single_step = _find_single_step(config, dims, timetable, total_steps)
    if single_step is None:
        return
    size, examples = single_step
    if examples < size:
        steps = f"the last step of an epoch, which has {pluralize(examples, 'example')}"
    else:
        steps = f"each step of {pluralize(examples, 'example')}"
    ranks = f" on {dims.data_ranks} data ranks" if dims.data_ranks > 1 else ""
    micro_batch_size = config.train.micro_batch_size
    micro_batches = f" in micro-batches of {micro_batch_size}" if micro_batch_size else ""
    yield Refusal(
        f"batch norm in {model.name} sees one number per channel of an example, so it cannot train on one example "
        f"alone, as in {steps}{ranks}{micro_batches} "
        f"(train.batch_size={config.train.batch_size}, {timetable.examples} training examples)",
        _suggest(config, dims, timetable, total_steps, is_last=examples < size),
    )


def _find_single_step(
    config: RunConfig, dims: ParallelDims, timetable: EpochSchedule, total_steps: int
) -> tuple[int, int] | None:
    """Return (batch size, examples) of a step with a group of one example, or None."""
    schedule = make_batch_schedule(config, dims, timetable)
    micro_batch_size = max(
        size for size, _ in compute_micro_batches(config, dims, timetable.examples, timetable).values()
    )
    for epoch, size in timetable.changes:
        last_step = max(total_steps, 0 if epoch else config.norm.recomputed_batches)
        is_epoch_complete = not total_steps or timetable.step_at(epoch + 1) <= last_step
        last_examples = timetable.count_last_examples(size) if is_epoch_complete else 0
        for examples in (size, last_examples):
            passes = cut_all_ranks(replace(schedule, batch_size=size, micro_batch_size=micro_batch_size), examples)
            for ranges in itertools.zip_longest(*passes, fillvalue=(0, 0)):
                if config.norm.count_smallest_group([end - start for start, end in ranges]) == 1:
                    return size, examples
    return None


def _suggest(config: RunConfig, dims: ParallelDims, timetable: EpochSchedule, total_steps: int, is_last: bool) -> str:
    """Return a hint that names settings without such a step."""
    fixes = []
    if is_last and _find_single_step(config, dims, replace(timetable, drop_last=True), total_steps) is None:
        fixes.append("train.drop_last=true")
    if timetable.is_constant:
        batch_size = config.train.batch_size
        distances = range(1, min(_TRIED_SIZES, batch_size) + 1)
        sizes = [size for distance in distances for size in (batch_size - distance, batch_size + distance)]
        for size in sizes:
            changed = replace(config, train=replace(config.train, batch_size=size))
            is_possible = max(dims.data_ranks, config.train.micro_batch_size or 1) <= size <= timetable.examples
            changed_timetable = replace(timetable, changes=((0, size),))
            if is_possible and _find_single_step(changed, dims, changed_timetable, 0) is None:
                fixes.append(f"train.batch_size={size}")
                break
    elif not fixes:
        fixes.append(LEAVE_OUT_HINT)
    return f"use {', or '.join([*fixes, 'norm=group'])}"
