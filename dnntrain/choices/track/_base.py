"""Define helpers for trackers.

A tracker also receives the metrics, besides the run directory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from dnntrain.errors import ConfigError

#: Columns of a row that identify it; they are not measurements.
_AXES = ("step", "epoch", "examples", "wall_s", "split")

#: Names of measurements of the machine, in every split.
_PERFORMANCE = ("examples_per_s", "step_ms", "data_wait")


def iterate_scalars(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the (tag, value) pairs of a row, or none for an event.

    Tags are `train/loss`, `val/accuracy`, `perf/examples_per_s` …
    """
    split = row.get("split", "train")
    if split == "event":
        return
    for name, value in row.items():
        if name in _AXES or isinstance(value, bool):
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        yield (f"perf/{name}" if name in _PERFORMANCE else f"{split}/{name}"), number


def flatten_config(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield a configuration as (dotted key, text) pairs."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten_config(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def select_finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the entries that are finite numbers."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def make_missing_package_error(package: str, choice: str) -> ConfigError:
    """Return the error for a choice whose package is not installed."""
    return ConfigError(
        f"track={choice} needs the package {package}, which is not installed", 'pip install "dnntrain[track]"'
    )
