"""Choose the number of threads that a run computes with on the processor."""

from __future__ import annotations

import os
from pathlib import Path

from dnntrain.config.run_config import RunConfig
from dnntrain.planning.plan import Plan
from dnntrain.utils.files import read_json
from dnntrain.utils.hardware import Hardware, get_default_threads
from dnntrain.utils.threads import compute_threads, count_available_threads, read_saved_threads
from dnntrain.utils.world import World


def choose_threads(config: RunConfig, plan: Plan, hardware: Hardware, world: World, is_resuming: bool) -> int:
    """Return the intra-op threads of each rank; a pure function of configuration, hardware and the saved run.

    `train.cpu_threads` if it is set, else the number of the run that is resumed, else a number that fits the work of an
    operator. On a GPU the threads of the processor have other work, and torch's own number stays.
    """
    if config.train.cpu_threads is not None:
        return config.train.cpu_threads
    local_ranks = 1 if world.is_launched else plan.ranks
    available = count_available_threads(get_default_threads(), hardware.cores, local_ranks, os.environ)
    if is_resuming and config.run_dir is not None:
        saved_plan = read_json(Path(config.run_dir).expanduser() / "plan.json")
        threads = read_saved_threads(saved_plan, available)
        if threads is not None and saved_plan.get("ranks") == plan.ranks:
            return threads
    if plan.device != "cpu":
        return available
    flops = plan.model.flops_per_example * plan.micro_batch_size / plan.model.operators
    return compute_threads(flops / plan.degrees.tp, available)
