"""How many trials run at once, and which devices and cores each has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dnntrain.errors import ConfigError

#: Share of the machine's memory that trials on the processor may take together.
_MEMORY_SHARE = 0.9


@dataclass(frozen=True)
class Need:
    """What a trial takes: `processes` ranks of `threads` threads, `memory_bytes` of the host, and `devices` accelerators.

    `device` is the number of the one accelerator that its configuration names, as in device=cuda:1.
    """

    processes: int = 1
    threads: int = 1
    memory_bytes: int = 0
    devices: int = 0
    device: int | None = None


@dataclass(frozen=True)
class Slot:
    """A part of the machine: accelerators by name, as in CUDA_VISIBLE_DEVICES, and numbers of cores."""

    devices: tuple[str, ...]
    cores: tuple[int, ...]


def divide(
    needs: Sequence[Need],
    devices: Sequence[str],
    cores: Sequence[int],
    memory_bytes: int,
    at_once: int | None = None,
) -> list[Slot]:
    """Equal slots for trials with `needs`, as many as fit or `at_once`.

    The size of a slot follows from all trials and the machine, not from which trials are left: a trial that goes on has
    as many threads as before, and so the same bits. Each slot holds the largest need; one core for each thread of each
    rank, unless `at_once` asks for more. Raises ConfigError where `at_once` slots do not fit on the accelerators.
    """
    fitting = len(needs)
    widest = max(need.devices for need in needs)
    if widest:
        fitting = min(fitting, 1 if any(need.device is not None for need in needs) else max(1, len(devices) // widest))
    memory = max(need.memory_bytes * need.processes for need in needs)
    if memory and memory_bytes:
        fitting = min(fitting, max(1, int(_MEMORY_SHARE * memory_bytes) // memory))
    host = max(need.processes * need.threads for need in needs)
    most = min(fitting, max(1, len(cores) // host))
    if at_once is not None and widest and at_once > fitting and at_once <= len(needs):
        raise ConfigError(
            f"--at-once {at_once}: {fitting} trials of {widest} devices fit on {len(devices)} at once",
            f"use --at-once {fitting}, or fewer devices for each trial with launch.nproc",
        )
    count = most if at_once is None else min(at_once, len(needs))
    share = max(1, len(cores) // count)
    return [
        Slot(
            tuple(devices[number * widest : (number + 1) * widest]),
            tuple(cores[(number * share + offset) % len(cores)] for offset in range(share)),
        )
        for number in range(count)
    ]
