"""Choose the number of CPU threads of a run."""

from __future__ import annotations

import os
from pathlib import Path

from dnntrain.config.run_config import RunConfig
from dnntrain.planning.plan import Plan
from dnntrain.utils.hardware import Hardware, get_default_threads
from dnntrain.utils.sealed_json import read_sealed_json
from dnntrain.utils.threads import compute_threads, count_available_threads, read_saved_threads
from dnntrain.utils.world import World


def choose_threads(config: RunConfig, plan: Plan, hardware: Hardware, world: World, is_resuming: bool) -> int:
    """Return the number of intra-op threads of each rank.

    The number is `train.cpu_threads` if it is set, else the number of the resumed run, else a number
    that fits the work of an operator. On a GPU, CPU threads have other work, and torch's default
    remains. The result depends on the configuration, the hardware and the saved run only.
    """
    if config.train.cpu_threads is not None:
        return config.train.cpu_threads
    local_ranks = 1 if world.is_launched else plan.ranks
    available = count_available_threads(get_default_threads(), hardware.cores, local_ranks, os.environ)
    if is_resuming and config.run_dir is not None:
        saved_plan = read_sealed_json(Path(config.run_dir).expanduser() / "plan.json")
        threads = read_saved_threads(saved_plan, available)
        if threads is not None and saved_plan.get("ranks") == plan.ranks:
            return threads
    if plan.device != "cpu":
        return available
    flops = plan.model.flops_per_example * plan.micro_batch_size / plan.model.operators
    return compute_threads(flops / plan.degrees.tp, available)
