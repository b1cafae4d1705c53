"""Measure the rates that this machine can reach: a matrix product, and copies of memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

#: Width of the square matrices by the type of the device.
_MATRIX_WIDTH = {"cuda": 8192}
_DEFAULT_WIDTH = 1024
_COPY_BYTES = 64 * 2**20
#: Seconds of a measurement, and its repetitions at least.
_MEASURE_S = 0.3
_MIN_REPETITIONS = 3


@dataclass(frozen=True)
class AttainableRates:
    """The best rates that were measured.

    flops           operations per second of a matrix product in the precision of the run
    copy_bytes      bytes per second that a copy in the device's memory reads and writes
    transfer_bytes  bytes per second from the host to the device; None on a CPU
    """

    flops: float
    copy_bytes: float
    transfer_bytes: float | None


def measure_attainable_rates(device: str, dtype: torch.dtype | None) -> AttainableRates:
    """Measure the rates of `device` with the threads of this process; `dtype` None: float32."""
    device_type = torch.device(device).type
    synchronize = make_synchronizer(device)
    flops = measure_product_rate(device, dtype or torch.float32)
    source = torch.zeros(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_bytes = 2 * _COPY_BYTES / _time_best(lambda: target.copy_(source), synchronize)
    transfer_bytes = None
    if device_type == "cuda":
        host = torch.zeros(_COPY_BYTES, dtype=torch.uint8).pin_memory()
        transfer_bytes = _COPY_BYTES / _time_best(lambda: target.copy_(host, non_blocking=True), synchronize)
    return AttainableRates(flops, copy_bytes, transfer_bytes)


def measure_product_rate(device: str, dtype: torch.dtype) -> float:
    """Return the operations per second of a matrix product with the threads of this process."""
    width = _MATRIX_WIDTH.get(torch.device(device).type, _DEFAULT_WIDTH)
    left, right = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    return 2 * width**3 / _time_best(lambda: left @ right, make_synchronizer(device))


def make_synchronizer(device: str) -> Callable[[], None]:
    """Return a function that waits for the work of `device`."""
    if torch.device(device).type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return torch.mps.synchronize if torch.device(device).type == "mps" else lambda: None


def _time_best(work: Callable[[], object], synchronize: Callable[[], None]) -> float:
    """Return the shortest time of `work` in seconds."""
    best, ended = float("inf"), time.perf_counter() + _MEASURE_S
    repetitions = 0
    while repetitions < _MIN_REPETITIONS or time.perf_counter() < ended:
        synchronize()
        started = time.perf_counter()
        work()
        synchronize()
        best = min(best, time.perf_counter() - started)
        repetitions += 1
    return best
