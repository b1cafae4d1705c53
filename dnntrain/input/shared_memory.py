"""Check that the shared memory of the system holds the batches of the reading processes.

Readers pass batches through /dev/shm, which containers often limit to 64 MiB.
"""

from __future__ import annotations

import os

from dnntrain.errors import ConfigError
from dnntrain.utils.units import format_bytes

_PLACE = "/dev/shm"

#: Batches that a worker has read ahead, and those that the reader's own process holds.
_BATCHES_PER_WORKER, _BATCHES_HELD = 2, 2

#: Space for the locks and queues of each worker: some pages.
_WORKER_BYTES = 8 * 4096


def read_free_shared_bytes() -> int | None:
    """Return the free bytes of /dev/shm; None if this system does not have it."""
    try:
        status = os.statvfs(_PLACE)
    except (OSError, AttributeError):
        return None
    return status.f_bavail * status.f_frsize


def compute_shared_bytes(batch_bytes: int, workers: int) -> int:
    """Return the bytes of /dev/shm that `workers` processes with batches of `batch_bytes` need."""
    if workers == 0:
        return 0
    return (_BATCHES_PER_WORKER * workers + _BATCHES_HELD) * batch_bytes + (workers + 1) * _WORKER_BYTES


def check_shared_memory(batch_bytes: int, workers: int, ranks: int = 1, option: str = "data.num_workers=") -> None:
    """Check that /dev/shm has room for the batches of `workers` processes of each of `ranks`.

    `option` is the setting of the workers as the user types it, without its value. Raises ConfigError, which names the
    number of workers that fit.
    """
    free_bytes = read_free_shared_bytes()
    needed_bytes = ranks * compute_shared_bytes(batch_bytes, workers)
    if free_bytes is None or needed_bytes <= free_bytes:
        return
    fitting = [number for number in range(workers) if ranks * compute_shared_bytes(batch_bytes, number) <= free_bytes]
    rank_text = f" of {ranks} ranks" if ranks > 1 else ""
    raise ConfigError(
        f"/dev/shm is too small: {workers} reading processes{rank_text} need {format_bytes(needed_bytes)} there, and "
        f"{format_bytes(free_bytes)} are free",
        f"give it more room (docker run --shm-size={_round_up(needed_bytes)}), or use {option}{max(fitting, default=0)}",
    )


def _round_up(size_bytes: int) -> str:
    return f"{max(1, -(-size_bytes // 2**30))}g"
