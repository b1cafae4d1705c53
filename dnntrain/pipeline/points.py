"""The measured models of a pipeline, the best of them, and the answer to a bound. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.protocols import MetricInfo
from dnntrain.report.format import format_metric
from dnntrain.utils.sealed_json import read_sealed_json
from dnntrain.utils.units import format_bytes, format_seconds

MEASUREMENTS_FILE = "measurements.json"

_LATENCY = re.compile(r"(\d+(?:\.\d+)?)\s*(us|µs|ms|s)")
#: A bound that is written in decimals is not missed by less than this share.
_ROUNDING = 1e-9
_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Measured:
    """A figure with the interval that holds its true value in 95 % of cases."""

    value: float
    low: float
    high: float

    def scale(self, factor: float) -> Measured:
        return Measured(factor * self.value, factor * self.low, factor * self.high)

    def as_json(self) -> list[float]:
        return [self.value, self.low, self.high]


@dataclass(frozen=True)
class Point:
    """One model of a pipeline: the float network of a stage, or one of its exports.

    source       the point that it is made from, None for a first stage
    form         float32, or the format of the export
    metric       on the test split; over all seeds of the stage
    latency_ms   milliseconds of a call, by batch size
    train_s      seconds of training of its stage; `total_s` with all stages that it needs
    """

    name: str
    stage: str
    source: str | None
    form: str
    path: str
    metric: Measured
    latency_ms: Mapping[int, Measured]
    size_bytes: int
    train_s: float
    total_s: float
    seeds: int = 1

    def as_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "metric": self.metric.as_json(),
            "latency_ms": {str(batch): value.as_json() for batch, value in self.latency_ms.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Point:
        return cls(
            **{
                **value,
                "metric": Measured(*value["metric"]),
                "latency_ms": {int(batch): Measured(*item) for batch, item in value["latency_ms"].items()},
            }
        )


@dataclass(frozen=True)
class Measurements:
    """All points of a pipeline, the metric of its task, and the machine that timed them."""

    metric: MetricInfo
    points: tuple[Point, ...]
    machine: Mapping[str, Any]
    identity: str

    @property
    def batches(self) -> tuple[int, ...]:
        return tuple(self.points[0].latency_ms) if self.points else ()

    def get_point(self, name: str | None) -> Point | None:
        return next((point for point in self.points if point.name == name), None)

    def as_json(self) -> dict[str, Any]:
        metric = {
            "name": self.metric.name,
            "higher_is_better": self.metric.higher_is_better,
            "unit": self.metric.unit,
        }
        points = [point.as_json() for point in self.points]
        return {
            "schema": 1,
            "identity": self.identity,
            "metric": metric,
            "machine": dict(self.machine),
            "points": points,
        }


def read_measurements(folder: Path) -> Measurements | None:
    """Return the measurements of a pipeline's folder, None if there are none. Raises CheckpointError."""
    path = folder / MEASUREMENTS_FILE
    value = read_sealed_json(path, "the pipeline's command measures again if you delete it")
    if not value:
        return None
    try:
        points = tuple(map(Point.from_json, value["points"]))
        return Measurements(MetricInfo(**value["metric"]), points, value["machine"], str(value["identity"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r})", "delete it, and run the pipeline again") from None


def find_pareto(measurements: Measurements, batch: int) -> list[Point]:
    """Return the points that no other one beats in both metric and latency, the fastest first."""
    sign = measurements.metric.sign
    ordered = sorted(measurements.points, key=lambda point: (point.latency_ms[batch].value, -sign * point.metric.value))
    front: list[Point] = []
    for point in ordered:
        if not front or sign * point.metric.value > sign * front[-1].metric.value:
            front.append(point)
    return front


def parse_latency(text: str) -> float:
    """Return a latency in milliseconds: `2ms`, `500us`, `0.01s`. Raises ConfigError."""
    match = _LATENCY.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise ConfigError(
            f"--max-latency {text} must be a time above 0 with its unit: us, ms or s", "as in --max-latency 2ms"
        )
    return float(match[1]) * _MILLISECONDS[match[2]]


def choose_point(measurements: Measurements, max_latency_ms: float, batch: int) -> Point:
    """Return the point with the best metric among those whose latency is certainly within the bound.

    The upper end of the interval counts. Raises ConfigError with the nearest bound that can be
    reached, and the stage that lost it.
    """
    if batch not in measurements.batches:
        known = ", ".join(map(str, measurements.batches))
        raise ConfigError(f"--batch {batch} was not measured", f"measured: {known}")
    limit_ms = max_latency_ms * (1 + _ROUNDING)
    fitting = [point for point in measurements.points if point.latency_ms[batch].high <= limit_ms]
    if fitting:
        sign = measurements.metric.sign
        return max(fitting, key=lambda point: (sign * point.metric.value, -point.latency_ms[batch].value))
    nearest = min(measurements.points, key=lambda point: point.latency_ms[batch].high)
    bound = format_bound(nearest.latency_ms[batch].high)
    raise ConfigError(
        f"no model reaches {max_latency_ms:g} ms at batch {batch}: the nearest is {nearest.name} with "
        f"{format_latency(nearest.latency_ms[batch])}. {describe_loss(measurements, nearest, batch)}",
        f"use --max-latency {bound}",
    )


def format_bound(latency_ms: float) -> str:
    """Return the smallest bound of three digits that is not below a latency: `0.314ms`."""
    from math import ceil, floor, log10

    unit = 10.0 ** (floor(log10(latency_ms)) - 2)
    return f"{ceil(latency_ms / unit * (1 - _ROUNDING)) * unit:.6g}ms"


def describe_loss(measurements: Measurements, point: Point, batch: int) -> str:
    """Return a sentence that names the stage with the least gain in latency on the way to `point`."""
    steps = []
    current: Point | None = point
    while current is not None and (source := measurements.get_point(current.source)) is not None:
        steps.append((current.latency_ms[batch].value / source.latency_ms[batch].value, source, current))
        current = source
    if not steps:
        return f"The stage {point.stage} lost it: no stage before it is slower."
    ratio, source, target = max(steps, key=lambda step: step[0])
    change = f"{1 / ratio:.2f} times faster" if ratio < 1 else f"{ratio:.2f} times slower"
    return f"The stage {target.stage} lost it: {target.name} is only {change} than {source.name}.".replace(
        "only " if ratio >= 1 else "\0", ""
    )


def format_latency(latency: Measured) -> str:
    """Format a latency with its interval: `0.31 ms (0.30 to 0.33)`."""
    return f"{latency.value:.3g} ms ({latency.low:.3g} to {latency.high:.3g})"


def format_interval(metric: MetricInfo, measured: Measured) -> str:
    """Format a metric with its interval."""
    low, high = (format_metric(metric, value) for value in (measured.low, measured.high))
    return f"{format_metric(metric, measured.value)} ({low} to {high})"


def describe_point(measurements: Measurements, point: Point, folder: Path) -> str:
    """Return the figures of a point, and where it is."""
    metric = measurements.metric
    latencies = ", ".join(f"{format_latency(latency)} at batch {batch}" for batch, latency in point.latency_ms.items())
    return (
        f"{point.name}: {metric.name} {format_interval(metric, point.metric)}, {latencies}, "
        f"{format_bytes(point.size_bytes)}, {format_seconds(point.total_s)} of training: {folder / point.path}"
    )
