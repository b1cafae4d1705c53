"""Read the goal of `dnntrain tune speed`. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from dnntrain.errors import ConfigError
from dnntrain.protocols.metric import MetricInfo, find_metric
from dnntrain.utils.suggest import did_you_mean

THROUGHPUT, TIME_TO, MEMORY, LATENCY = "throughput", "time_to", "memory", "latency"
GoalKind = Literal["throughput", "time_to", "memory", "latency"]

#: The goals as they are typed.
_FORMS = (THROUGHPUT, f"{TIME_TO}=METRIC:VALUE", MEMORY, LATENCY)


@dataclass(frozen=True)
class Goal:
    """The quantity that settings are compared by.

    kind    throughput: the time of an example; time_to: the training time until the validation split
            reaches `value`; memory: the peak of a process; latency: the time of an answer of the model
    metric  the metric of time_to
    """

    kind: GoalKind = "throughput"
    metric: MetricInfo | None = None
    value: float = math.nan

    def is_reached(self, value: float) -> bool:
        """Return whether a value of the metric is as good as the goal or better."""
        assert self.metric is not None
        return self.metric.sign * value >= self.metric.sign * self.value

    def __str__(self) -> str:
        return self.kind if self.metric is None else f"{self.kind}={self.metric.name}:{self.value:g}"


def check_goal_kind(text: str) -> None:
    """Raise ConfigError with the nearest goal if `text` does not begin with one."""
    kind = text.partition("=")[0]
    if kind not in get_args(GoalKind):
        raise ConfigError(f"--goal {text} must be one of {', '.join(_FORMS)}", did_you_mean(kind, get_args(GoalKind)))
    if kind != TIME_TO and "=" in text:
        raise ConfigError(f"--goal {text}: {kind} takes no value", f"use --goal {kind}")


def parse_goal(text: str, metrics: Sequence[MetricInfo], default_metric: str) -> Goal:
    """Return the goal that is typed as `text`; `metrics` are those of the task.

    Raises ConfigError with the nearest goal, metric or value if it is not one.
    """
    check_goal_kind(text)
    kind, _, rest = text.partition("=")
    if kind != TIME_TO:
        return Goal(cast("GoalKind", kind))
    name, colon, number = rest.partition(":")
    if not colon or not name:
        default = find_metric(default_metric, metrics, "eval.metric")
        example = f"--goal {TIME_TO}={default_metric}:{'0.9' if default.is_share else '1'}"
        raise ConfigError(f"--goal {text} must name a metric and its value", f"as in {example}")
    metric = find_metric(name, metrics, f"--goal {TIME_TO}")
    return Goal("time_to", metric, _parse_value(number, metric))


def _parse_value(text: str, metric: MetricInfo) -> float:
    """Return the value of a metric; a share is a number between 0 and 1."""
    setting = f"--goal {TIME_TO}={metric.name}"
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{setting}:{text}: the value must be a number", f"as in {setting}:0.9")
    if metric.is_share and not 0 < value <= 1:
        hint = f"did you mean {setting}:{value / 100:g}?" if 1 < value <= 100 else f"as in {setting}:0.9"
        raise ConfigError(f"{setting}:{text}: {metric.name} is a share, so the value must be in (0, 1]", hint)
    if metric.is_share and text.endswith("%"):
        raise ConfigError(f"{setting}:{text}: the value must be a number", f"did you mean {setting}:{value / 100:g}?")
    return value
