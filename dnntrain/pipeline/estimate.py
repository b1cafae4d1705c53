"""Estimate how long a stage trains, from earlier stages or from the speed of a matrix product."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np

from dnntrain.utils.sealed_json import read_intact_json
from dnntrain.utils.units import format_seconds

#: The share of a matrix product's speed that training of a small network reaches.
_EFFICIENCY = 0.4
_SIZE = 512


def estimate_training_s(step_flops: float, steps: int, folders: Iterable[Path]) -> float | None:
    """Return the seconds for `steps` steps, None if their number is unknown.

    The speed is the median of the finished runs in `folders`.
    """
    if not steps:
        return None
    speeds = [speed for folder in folders if (speed := _read_speed(folder)) is not None]
    return step_flops * steps / (median(speeds) if speeds else _EFFICIENCY * measure_product_speed())


def format_estimate(seconds: float | None) -> str:
    """Return `, about 2:30`, empty if it is unknown."""
    return "" if seconds is None else f", about {format_seconds(max(seconds, 1.0))}"


def _read_speed(folder: Path) -> float | None:
    """Return the FLOPs a second of a finished run."""
    result, plan = read_intact_json(folder / "result.json"), read_intact_json(folder / "plan.json")
    values = [result.get("train_s"), result.get("steps"), plan.get("flops_per_step")]
    numbers = [float(value) for value in values if isinstance(value, int | float) and value > 0]
    if result.get("status") != "done" or len(numbers) < len(values):
        return None
    train_s, steps, flops = numbers
    return flops * steps / train_s


@cache
def measure_product_speed() -> float:
    """Return the FLOPs a second of a float32 matrix product on this machine."""
    matrix = np.ones((_SIZE, _SIZE), dtype=np.float32)
    matrix @ matrix
    times = []
    for _ in range(5):
        start_s = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start_s)
    return 2.0 * _SIZE**3 / min(times)
