"""The protocol of a display: live view, plain lines, JSON lines, or warnings only.

A display has no thread of its own: the training loop calls it, and asks `next_refresh` first. Each
refresh is timed, and the next one is delayed so that all refreshes together cost at most 0.3 % of
the time. A closed pipe never ends the training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from dnntrain.protocols import LOSS, MetricInfo

#: Share of the wall time that refreshing may take.
_COST_SHARE = 0.003


@dataclass(frozen=True)
class Header:
    """The facts shown once, at the start.

    `steps` and `epochs` are 0 if the run's length is a time. `metrics` are the task's; the first
    one chooses the best weights, and `best` is its best value so far: a resumed run has one.
    """

    title: str
    model: str
    data: str
    layout: str
    parameters: int
    steps: int
    epochs: float
    run_dir: str
    metrics: tuple[MetricInfo, ...] = (LOSS,)
    best: float = math.nan

    @property
    def headline(self) -> MetricInfo | None:
        """The metric that a table shows beside the loss; None if the task has no other."""
        return next((info for info in self.metrics if info != LOSS), None)


@dataclass(slots=True)
class LiveState:
    """The progress of the run.

    Unknown numbers are NaN, `fraction` is in [0, 1]; without a known end `total_steps` is 0.
    """

    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    total_epochs: float = 0.0
    fraction: float = 0.0
    elapsed_s: float = 0.0
    eta_s: float = math.nan
    loss: float = math.nan
    metric_info: MetricInfo = LOSS
    metric: float = math.nan
    best: float = math.nan
    learning_rate: float = math.nan
    examples_per_s: float = math.nan
    memory_bytes: int = 0

    @property
    def percent(self) -> int:
        """The progress in percent; 100 only if every step is done."""
        return 100 if self.fraction >= 1 else max(0, min(int(100 * self.fraction), 99))

    @property
    def remaining_s(self) -> float:
        """The seconds that remain; NaN if they are unknown, or if every step is done."""
        return math.nan if self.fraction >= 1 else self.eta_s


class Display(Protocol):
    """Show the state of a run."""

    @property
    def next_refresh(self) -> float:
        """The time.perf_counter() before which `refresh` need not be called."""

    def start(self, header: Header) -> None: ...

    def refresh(self, state: LiveState) -> None: ...

    def show_row(self, row: Mapping[str, Any], is_best: bool = False) -> None:
        """Show a new row of metrics; rows of an evaluation stay visible. `is_best`: BEST moved to its step."""

    def show_message(self, text: str, warning: bool = False) -> None:
        """Show a permanent message; a quiet display shows warnings only."""

    def close(self, status: str) -> None: ...


class Pace:
    """The time of the next refresh.

    It is at least `min_interval_s` away, and late enough that refreshing costs only its share of the
    time.
    """

    def __init__(self, min_interval_s: float) -> None:
        self.min_interval_s = min_interval_s
        self.next_s = 0.0

    def record_refresh(self, started_s: float) -> None:
        """Record a refresh that began at `started_s` and ends now."""
        now = time.perf_counter()
        self.next_s = now + max(self.min_interval_s, (now - started_s) / _COST_SHARE)


def to_float(value: Any, default: float = math.nan) -> float:
    """Return `value` as a float, `default` if it is not a number.

    The texts "nan" and "inf" are numbers too.
    """
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return default


def format_metric(metric: MetricInfo, value: float) -> str:
    """Format a metric for people: shares in percent; "-" if it is unknown."""
    if math.isnan(value):
        return "-"
    if metric.is_share and math.isfinite(value):
        return f"{100 * value:.2f}%"
    text = f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"
    return f"{text} {metric.unit}" if metric.unit and not metric.is_share else text


def format_learning_rate(value: float) -> str:
    """Format a learning rate in three digits; "-" if it is unknown."""
    if math.isnan(value):
        return "-"
    return f"{value:.2e}" if value and not 1e-3 <= abs(value) < 1e3 else f"{value:.4g}"


def format_throughput(examples_per_s: float) -> str:
    """Return `41200` as `41.2k ex/s`."""
    if not math.isfinite(examples_per_s):
        return "-"
    for unit in ("", "k", "M"):
        if examples_per_s < 1000:
            return f"{examples_per_s:.4g}{unit} ex/s" if not unit else f"{examples_per_s:.1f}{unit} ex/s"
        examples_per_s /= 1000
    return f"{examples_per_s:.1f}G ex/s"
