"""Suggest a learning rate by the range test.

The rate of step i of n is

    lowest * (highest / lowest) ** (i / (n - 1)).

The loss first stays, then falls, then explodes. The suggestion is the rate at which the smoothed
loss falls most steeply against the logarithm of the rate; a tenth of the rate with the lowest loss
is given too. The test trains in a temporary trainer, built from the run's configuration.

Source: Smith, "Cyclical learning rates", 2017, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dnntrain.errors import DivergedError, DnntrainError
from dnntrain.protocols import (
    BuildContext,
    Hooks,
    SchedChoice,
    ScheduledParam,
    ScheduledValue,
    StepInfo,
    StopTraining,
)
from dnntrain.run.session import Session

#: The test ends if the loss, averaged over the last steps, is this many times its minimum.
_DIVERGENCE_FACTOR = 4.0
_SMOOTHING = 0.8

#: Fewer points do not give a slope.
_MIN_POINTS = 10


@dataclass(frozen=True)
class LrRangeSchedule(SchedChoice):
    """A schedule whose rate rises exponentially from `lowest` to `highest`.

    It takes `steps` steps, and ends the run if the loss explodes.
    """

    lowest: float
    highest: float
    steps: int

    def build(self, context: BuildContext) -> Hooks:
        scheduled_rate = ScheduledValue(
            ScheduledParam.LEARNING_RATE, lambda step_info: self.get_rate(step_info) / context.learning_rate
        )
        return Hooks(scheduled_values=(scheduled_rate,), metric_callbacks=(StopOnDivergence(),))

    def get_rate(self, step_info: StepInfo) -> float:
        """Return the learning rate of a step."""
        fraction = step_info.step / max(self.steps - 1, 1)
        return float(self.lowest * (self.highest / self.lowest) ** fraction)


class StopOnDivergence:
    """Ends the test if the mean loss of the last steps is several times its minimum."""

    def __init__(self) -> None:
        self._mean = 0.0
        self._weight = 0.0
        self._lowest = math.inf

    def __call__(self, row: Mapping[str, Any]) -> StopTraining | None:
        if row["split"] != "train":
            return None
        self._mean = _SMOOTHING * self._mean + (1 - _SMOOTHING) * row["loss"]
        self._weight = _SMOOTHING * self._weight + (1 - _SMOOTHING)
        mean = self._mean / self._weight
        self._lowest = min(self._lowest, mean)
        return StopTraining("the loss has exploded") if mean > _DIVERGENCE_FACTOR * self._lowest else None


@dataclass(frozen=True)
class Suggestion:
    """The result of a range test.

    `rate` is the rate at which the smoothed loss falls most steeply; `tenth_of_minimum` is a tenth
    of the rate with the lowest smoothed loss.
    """

    rate: float
    tenth_of_minimum: float
    smoothed: tuple[float, ...]


def suggest_rate(rates: Sequence[float], losses: Sequence[float]) -> Suggestion:
    """Suggest a rate from the losses at rising rates.

    Raises DnntrainError if there are too few losses, or the loss never falls.
    """
    if len(rates) < _MIN_POINTS:
        raise DnntrainError(
            f"the loss exploded after {len(rates)} steps",
            "use a lower rate, as in --lowest 1e-8, or more steps, as in --steps 200",
        )
    smoothed = compute_centered_mean(losses, max(3, len(losses) // 20))
    slopes = np.gradient(smoothed, np.log(rates))
    # A fall after the lowest loss is a fall from an explosion.
    bottom = int(np.argmin(smoothed))
    steepest = int(np.argmin(slopes[: bottom + 1]))
    if slopes[steepest] >= 0:
        raise DnntrainError(
            f"the loss does not fall at any rate from {rates[0]:.3g} to {rates[-1]:.3g}",
            "set --lowest and --highest around the rates that train this network",
        )
    return Suggestion(float(rates[steepest]), float(rates[bottom]) / 10, tuple(float(value) for value in smoothed))


def compute_centered_mean(values: Sequence[float], width: int) -> Any:
    """Return the mean of `width` values around each, fewer at the ends: float64 [n]."""
    reach = width // 2
    return np.array([np.mean(values[max(0, at - reach) : at + reach + 1]) for at in range(len(values))])


def run_range_test(session: Session, lowest: float, highest: float, steps: int) -> dict[str, Any]:
    """Run the test on the session's data, network and layout.

    The result is the same on every rank. Writes nothing. Returns `rates`, `losses`, `smoothed`,
    `suggestion`, `tenth_of_minimum`, `line` and `ended`.
    """
    from dnntrain.run.scratch import run_scratch_training

    schedule = LrRangeSchedule(lowest, highest, steps)
    end_reason = "all steps done"
    rows: list[Mapping[str, Any]] = []
    try:
        end_reason = (
            run_scratch_training(replace(session, config=replace(session.config, sched=schedule)), steps, rows.append)
            or end_reason
        )
    except DivergedError as error:
        end_reason = error.message
    rows = [row for row in rows if row["split"] == "train"]
    rates = [schedule.get_rate(StepInfo(row["step"] - 1, 0.0, 0.0)) for row in rows]
    losses = [float(row["loss"]) for row in rows]
    suggestion = suggest_rate(rates, losses)
    return {
        "suggestion": suggestion.rate,
        "tenth_of_minimum": suggestion.tenth_of_minimum,
        "line": format_rate_overrides(session, suggestion.rate),
        "ended": end_reason,
        "rates": rates,
        "losses": losses,
        "smoothed": list(suggestion.smoothed),
    }


def format_rate_overrides(session: Session, rate: float) -> str:
    """Return the overrides that set `rate`.

    The optimizer's other base rates, which rose along with it, keep their proportion.
    """
    optim = session.config.optim
    scale = rate / session.plan.base_learning_rate
    values = {name: value for name, value in vars(optim).items() if name == "lr" or name.endswith("_lr")}
    return " ".join(
        f"optim.{name}={value * scale:.2g}" for name, value in values.items() if isinstance(value, float) and value > 0
    )
