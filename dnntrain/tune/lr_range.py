"""The learning-rate range test (Smith, "Cyclical learning rates", 2017, section 3.3).

The rate of step i of n is lowest * (highest / lowest) ** (i / (n - 1)). The loss first stays, then falls, then
explodes. The suggestion is the rate at which the smoothed loss falls most steeply against the logarithm of the rate;
the rate of the lowest loss, divided by ten, is given besides. What is trained is a trainer of its own, built from the
run's configuration, that is thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from dnntrain.errors import DivergedError, DnntrainError
from dnntrain.protocols import Context, Control, Moment, Need, Parts, Stop, Target
from dnntrain.run.session import Session

#: The test ends where the loss, averaged over the last steps, is this many times its lowest.
_EXPLODED = 4.0
_KEEP = 0.8

#: Fewer points tell no slope.
_FEWEST = 10


@dataclass(frozen=True)
class RangeTest:
    """A schedule: the rate rises exponentially from `lowest` to `highest` in `steps` steps, and ends the run where the loss explodes."""

    lowest: float
    highest: float
    steps: int

    needs: ClassVar[frozenset[Need]] = frozenset()

    def build(self, context: Context) -> Parts:
        control = Control(Target.LEARNING_RATE, lambda moment: self.rate(moment) / context.learning_rate)
        return Parts(controls=(control,), decisions=(Explosion(),))

    def rate(self, moment: Moment) -> float:
        """The learning rate of a step."""
        share = moment.step / max(self.steps - 1, 1)
        return float(self.lowest * (self.highest / self.lowest) ** share)


class Explosion:
    """Ends the test where the mean loss of the last steps is several times its lowest."""

    def __init__(self) -> None:
        self._mean = 0.0
        self._weight = 0.0
        self._lowest = math.inf

    def __call__(self, row: Mapping[str, Any]) -> Stop | None:
        if row["split"] != "train":
            return None
        self._mean = _KEEP * self._mean + (1 - _KEEP) * row["loss"]
        self._weight = _KEEP * self._weight + (1 - _KEEP)
        mean = self._mean / self._weight
        self._lowest = min(self._lowest, mean)
        return Stop("the loss has exploded") if mean > _EXPLODED * self._lowest else None


@dataclass(frozen=True)
class Suggestion:
    """`rate`: where the smoothed loss falls most steeply; `tenth`: a tenth of the rate with the lowest smoothed loss."""

    rate: float
    tenth: float
    smoothed: tuple[float, ...]


def suggest(rates: Sequence[float], losses: Sequence[float]) -> Suggestion:
    """The suggestion from the losses at rising rates. Raises DnntrainError where there are too few, or the loss never falls."""
    if len(rates) < _FEWEST:
        raise DnntrainError(
            f"the loss exploded after {len(rates)} steps", "begin lower, as in lowest=1e-8, or take more steps=200"
        )
    smoothed = centred_mean(losses, max(3, len(losses) // 20))
    slopes = np.gradient(smoothed, np.log(rates))
    # What falls after the lowest loss falls from an explosion.
    bottom = int(np.argmin(smoothed))
    steepest = int(np.argmin(slopes[: bottom + 1]))
    if slopes[steepest] >= 0:
        raise DnntrainError(
            f"the loss does not fall at any rate from {rates[0]:.3g} to {rates[-1]:.3g}",
            "set lowest= and highest= around the rates that train this network",
        )
    return Suggestion(float(rates[steepest]), float(rates[bottom]) / 10, tuple(float(value) for value in smoothed))


def centred_mean(values: Sequence[float], width: int) -> Any:
    """Means over `width` values around each, of fewer at both ends: float64 [n]."""
    reach = width // 2
    return np.array([np.mean(values[max(0, at - reach) : at + reach + 1]) for at in range(len(values))])


def range_test(session: Session, lowest: float, highest: float, steps: int) -> dict[str, Any]:
    """Runs the test on the session's data, network and layout; the same on every rank. Writes nothing.

    Returns `rates`, `losses`, `smoothed`, `suggestion`, `tenth_of_minimum`, `line` and `ended`.
    """
    from dnntrain.run.scratch import trained_rows

    test = RangeTest(lowest, highest, steps)
    ended = "all steps done"
    rows: list[Mapping[str, Any]] = []
    try:
        ended = trained_rows(replace(session, config=replace(session.config, sched=test)), steps, rows.append) or ended
    except DivergedError as error:
        ended = error.message
    rows = [row for row in rows if row["split"] == "train"]
    rates = [test.rate(Moment(row["step"] - 1, 0.0, 0.0)) for row in rows]
    losses = [float(row["loss"]) for row in rows]
    found = suggest(rates, losses)
    return {
        "suggestion": found.rate,
        "tenth_of_minimum": found.tenth,
        "line": line_of(session, found.rate),
        "ended": ended,
        "rates": rates,
        "losses": losses,
        "smoothed": list(found.smoothed),
    }


def line_of(session: Session, rate: float) -> str:
    """The overrides that set `rate`; the optimizer's other base rates, which rose along with it, keep their proportion."""
    optim = session.config.optim
    scale = rate / session.plan.base_learning_rate
    names = [name for name in vars(optim) if name == "lr" or name.endswith("_lr")]
    values = {name: getattr(optim, name) for name in names}
    return " ".join(
        f"optim.{name}={value * scale:.2g}" for name, value in values.items() if isinstance(value, float) and value > 0
    )
