"""Whether other processes use the cores of this machine."""

from __future__ import annotations

import os

#: Processes that wanted to run, for each core, from which on a machine counts as busy. One busy process on two cores is 0.5.
_BUSY = 0.45


def describe_load(load: float, cores: int) -> str | None:
    """A line for a person if `load`, the average number of processes that want to run, is high for `cores`; else None."""
    if load < _BUSY * cores:
        return None
    return (
        f"this machine is busy: on average {load:.1f} processes wanted its {cores} cores in the last minute. "
        "Training will be slower, by several times on few cores. Stop other programs (see top), or run when they are done"
    )


def describe_current_load() -> str | None:
    """`describe_load` of this machine now; None if the system does not report its load."""
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):
        return None
    # The load is that of the whole machine, so it is compared with all its cores, not only those this process may use.
    return describe_load(load, os.cpu_count() or 1)
