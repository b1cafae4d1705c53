"""Decide how many trials run at once, and the devices and cores of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dnntrain.errors import ConfigError
from dnntrain.utils.units import pluralize

#: Maximum share of the machine's memory for all trials on the processor.
_MEMORY_SHARE = 0.9


@dataclass(frozen=True)
class ResourceDemand:
    """The needs of a trial.

    `processes` ranks of `threads` threads, `memory_bytes` of the host, and `devices` accelerators.
    `device` is the number of the one accelerator that its configuration names, as in device=cuda:1.
    """

    processes: int = 1
    threads: int = 1
    memory_bytes: int = 0
    devices: int = 0
    device: int | None = None


@dataclass(frozen=True)
class Resources:
    """A part of the machine: names of accelerators and numbers of cores.

    Accelerators are named as in CUDA_VISIBLE_DEVICES.
    """

    devices: tuple[str, ...]
    cores: tuple[int, ...]


def divide_machine(
    demands: Sequence[ResourceDemand],
    devices: Sequence[str],
    cores: Sequence[int],
    memory_bytes: int,
    jobs: int | None = None,
) -> list[Resources]:
    """Divide the machine into equal parts for trials: as many as fit, or `jobs`.

    The size of a part follows from all trials and the machine, not from the remaining trials: a
    resumed trial has as many threads as before, and so the same bits. Each part holds the largest
    demand; one core for each thread of each rank, unless `jobs` asks for more parts. Raises
    ConfigError if `jobs` parts do not fit on the accelerators.
    """
    num_fitting = len(demands)
    max_devices = max(demand.devices for demand in demands)
    if max_devices:
        num_fitting = min(
            num_fitting,
            1 if any(demand.device is not None for demand in demands) else max(1, len(devices) // max_devices),
        )
    memory = max(demand.memory_bytes * demand.processes for demand in demands)
    if memory and memory_bytes:
        num_fitting = min(num_fitting, max(1, int(_MEMORY_SHARE * memory_bytes) // memory))
    cores_per_trial = max(demand.processes * demand.threads for demand in demands)
    max_count = min(num_fitting, max(1, len(cores) // cores_per_trial))
    count = max_count if jobs is None else min(jobs, len(demands))
    if max_devices and count > num_fitting:
        raise ConfigError(
            f"--jobs {jobs}: only {pluralize(num_fitting, 'trial')} of {pluralize(max_devices, 'device')} can run at "
            f"once on {len(devices)}",
            f"use --jobs {num_fitting}, or fewer devices for each trial with launch.nproc",
        )
    cores_per_set = max(1, len(cores) // count)
    return [
        Resources(
            tuple(devices[number * max_devices : (number + 1) * max_devices]),
            tuple(cores[(number * cores_per_set + offset) % len(cores)] for offset in range(cores_per_set)),
        )
        for number in range(count)
    ]
