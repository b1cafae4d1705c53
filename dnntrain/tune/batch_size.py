"""Find the micro-batches that fit, and the one with the highest throughput.

Sizes double from `smallest` up. Each trains a few steps of the run's own network, data and layout
in a temporary trainer. On a GPU a size fits if it does not run out of memory. On a CPU it fits if
the plan's estimate is within the memory of the machine, because there the operating system would
end the process. Ranks agree on each size.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from dnntrain.choices.sched.constant import Constant
from dnntrain.distributed.collectives import reduce_any
from dnntrain.errors import ConfigError, DataError, DnntrainError
from dnntrain.planning.batch_size import is_batch_size_scheduled
from dnntrain.planning.cpu_threads import choose_threads
from dnntrain.planning.facts import collect_data_facts, collect_model_facts
from dnntrain.planning.planner import make_plan
from dnntrain.run.scratch import run_scratch_training
from dnntrain.run.session import Session
from dnntrain.tune.blocks import fill_cache_of_run
from dnntrain.utils.explain_error import get_first_line
from dnntrain.utils.hardware import read_resident_bytes, release_memory, use_threads

#: First steps of a size, which warm up caches and are not timed.
_WARM_STEPS = 3

#: Throughput within this share of the best counts as the best: the smallest such batch generalizes
#: as well or better.
_NEAR_BEST_SHARE = 0.95

#: Share of the machine's memory that is used on a CPU.
_MEMORY_SHARE = 0.9


@dataclass(frozen=True)
class SizeTiming:
    """The throughput and memory of one micro-batch size.

    `microbatch` examples per rank, examples per second of all ranks, peak memory of one rank in
    bytes.
    """

    microbatch: int
    examples_per_s: float
    memory_bytes: int


def select_best_size(timings: Sequence[SizeTiming]) -> SizeTiming:
    """Return the smallest size whose throughput is within 5 % of the best.

    Raises DnntrainError if none fits.
    """
    if not timings:
        raise DnntrainError(
            "not even the smallest micro-batch fits into memory", "use --smallest 1, or a smaller network"
        )
    best = max(timing.examples_per_s for timing in timings)
    return next(timing for timing in timings if timing.examples_per_s >= _NEAR_BEST_SHARE * best)


def compute_throughput(step_s: Sequence[float], examples: int) -> float:
    """Return the examples per second of the median step.

    A step that other processes delayed does not count.
    """
    return examples / max(median(step_s), 1e-9)


def count_step_examples(session: Session, size: int) -> int:
    """Return the examples of a step with micro-batches of `size`.

    Each data rank computes one micro-batch, or as many as fill its pipeline.
    """
    plan = session.plan
    return size * plan.degrees.data_ranks * (plan.accumulation if plan.degrees.pp > 1 else 1)


def find_batch_size(session: Session, smallest: int, largest: int, steps: int) -> dict[str, Any]:
    """Measure the sizes, which are the same on every rank. Writes nothing.

    Returns `rows`, `suggestion` and `largest` (micro-batches), `line`, `same_batch` (the line that
    keeps the batch size) and `ended`.
    """
    timings: list[SizeTiming] = []
    share, end_reason = count_step_examples(session, 1), f"--largest {largest}"
    size = smallest
    while size <= largest:
        if size * share > session.plan.data.train:
            if not timings:
                raise DataError(
                    f"--smallest {smallest} asks for steps of {size * share} examples, and the training split has "
                    f"{session.plan.data.train}",
                    f"use --smallest {max(1, session.plan.data.train // share)} or less",
                )
            end_reason = f"the training split has {session.plan.data.train} examples"
            break
        try:
            new_timing = _measure_size(session, size, steps)
        except (ConfigError, DataError) as error:
            # Every rank raises it: it follows from the settings. The sizes before it stay measured.
            if not timings:
                raise
            end_reason = f"train.batch_size={size * share} does not fit the run: {get_first_line(error)}"
            break
        if new_timing is None:
            end_reason = f"a micro-batch of {size} does not fit into memory"
            break
        timings.append(new_timing)
        size *= 2
    best = select_best_size(timings)
    fitting_timings = [timing for timing in timings if timing.microbatch * share <= session.plan.batch_size]
    return {
        "suggestion": best.microbatch,
        "largest": timings[-1].microbatch,
        "line": f"train.batch_size={best.microbatch * share}",
        "same_batch": f"train.micro_batch_size={select_best_size(fitting_timings).microbatch}"
        if fitting_timings
        else None,
        "ended": end_reason,
        "rows": [vars(timing) for timing in timings],
    }


def _measure_size(session: Session, size: int, steps: int) -> SizeTiming | None:
    """Return the timing of a size, or None if it does not fit into the memory of some rank.

    Raises ConfigError or DataError if the settings of the run do not allow such a batch.
    """
    examples, device = count_step_examples(session, size), session.device
    train = replace(session.config.train, batch_size=examples, micro_batch_size=size)
    config = replace(session.config, train=train)
    if is_batch_size_scheduled(config):
        config = replace(config, sched=Constant())
    facts = collect_data_facts(config, session.data)
    plan = make_plan(
        config,
        session.hardware,
        session.world,
        facts,
        collect_model_facts(config, facts),
        process_bytes=read_resident_bytes(),
    )
    new_memory, run_memory = plan.memory, session.plan.memory
    plan = replace(
        plan,
        memory=replace(
            new_memory, teacher_weights=run_memory.teacher_weights, teacher_activations=run_memory.teacher_activations
        ),
    )
    threads = choose_threads(config, plan, session.hardware, session.world, is_resuming=False)
    use_threads(threads)
    trial_session = replace(session, config=config, plan=replace(plan, threads=threads))
    is_on_gpu = device.startswith("cuda")
    limit = session.hardware.memory_bytes * _MEMORY_SHARE / plan.ranks
    if reduce_any(not is_on_gpu and limit > 0 and plan.memory.total > limit, device):
        return None
    times: list[float] = []

    def record_time(values: Mapping[str, Any]) -> None:
        if values["split"] == "train":
            times.append(time.perf_counter())

    out_of_memory = False
    if is_on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    try:
        fill_cache_of_run(trial_session)
        run_scratch_training(trial_session, _WARM_STEPS + steps, record_time)
    except torch.OutOfMemoryError:
        out_of_memory = True
    peak = torch.cuda.max_memory_allocated(device) if is_on_gpu else plan.memory.total
    # The memory of the trainer is freed before the next size, even after a failure.
    release_memory(device)
    if reduce_any(out_of_memory, device):
        return None
    step_s = [after - before for before, after in zip(times[_WARM_STEPS - 1 :], times[_WARM_STEPS:], strict=False)]
    return SizeTiming(size, round(compute_throughput(step_s, examples), 1), int(peak))
