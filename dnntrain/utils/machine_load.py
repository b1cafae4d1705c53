"""Report whether other processes use the cores of this machine."""

from __future__ import annotations

import os

#: A machine is busy from this many runnable processes per core. One busy process on two cores is
#: 0.5.
_BUSY = 0.45


def describe_load(load: float, cores: int) -> str | None:
    """Return a warning if `load` is high for `cores`, else None.

    `load` is the average number of runnable processes.
    """
    if load < _BUSY * cores:
        return None
    return (
        f"this machine is busy: in the last minute, programs wanted {load:.1f} of its {cores} cores. "
        "Training will be slower, by several times on few cores. Stop other programs (see top), or run when they "
        "are done"
    )


def describe_current_load() -> str | None:
    """Return `describe_load` of this machine now.

    Returns None if the system does not report its load.
    """
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):
        return None
    # The load counts the whole machine, so it is compared with all its cores, not only the cores of
    # this process.
    return describe_load(load, os.cpu_count() or 1)
