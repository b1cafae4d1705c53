"""Rules that end a trial of a search before its last step, from the validation values of all trials.

A history is the list of (step, value) of a trial's validations; greater values are better here.
"""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

History = Sequence[tuple[int, float]]


class StopRule(ABC):
    """Decide once at each point of a trial whether it continues."""

    @abstractmethod
    def list_points(self, total_steps: int) -> tuple[int, ...]:
        """Return the steps at which a trial of `total_steps` is judged; empty: at each validation."""

    def get_first_step(self, total_steps: int) -> int:
        """Return the step of a trial of `total_steps` before which it is not judged."""
        return 0

    @abstractmethod
    def should_stop(self, trial: int, step: int, histories: Mapping[int, History]) -> bool:
        """Return True if `trial`, which has reached `step`, ends: it is among the worse of `histories`."""


class Asha(StopRule):
    """Asynchronous successive halving: at each rung the best third of the trials so far continues.

    Source: Li et al., A System for Massively Parallel Hyperparameter Tuning (MLSys 2020), in the form that
    stops trials: a trial is judged against those that reached the rung before.

    eta    the share that continues is 1 / eta
    rungs  number of rungs; they are at total / eta, total / eta² …
    """

    def __init__(self, eta: int = 3, rungs: int = 3) -> None:
        self.eta = eta
        self.rungs = rungs

    def list_points(self, total_steps: int) -> tuple[int, ...]:
        points = {max(1, total_steps // self.eta**power) for power in range(1, self.rungs + 1)}
        return tuple(sorted(point for point in points if point < total_steps))

    def should_stop(self, trial: int, step: int, histories: Mapping[int, History]) -> bool:
        values = {
            number: best for number, history in histories.items() if (best := _best_at(history, step)) is not None
        }
        if trial not in values or len(values) < self.eta:
            return False
        ranked = sorted(values.values(), reverse=True)
        return values[trial] < ranked[max(1, len(ranked) // self.eta) - 1]


class Median(StopRule):
    """A trial ends if its best value is worse than the median of the others' mean values up to the same step.

    Source: Golovin et al., Google Vizier (KDD 2017).

    least    number of other trials that must have come as far
    warm_up  share of the run before which no trial ends
    """

    def __init__(self, least: int = 4, warm_up: float = 0.1) -> None:
        self.least = least
        self.warm_up = warm_up

    def list_points(self, total_steps: int) -> tuple[int, ...]:
        return ()

    def get_first_step(self, total_steps: int) -> int:
        return math.ceil(self.warm_up * total_steps)

    def should_stop(self, trial: int, step: int, histories: Mapping[int, History]) -> bool:
        best = _best_at(histories.get(trial, ()), step, exact=False)
        means = []
        for number, history in histories.items():
            if number != trial and history and history[-1][0] >= step:
                means.append(statistics.fmean(value for at, value in history if at <= step or at == history[0][0]))
        return best is not None and len(means) >= self.least and best < statistics.median(means)


def _best_at(history: History, step: int, exact: bool = True) -> float | None:
    """Return the best value up to the first validation at or after `step`; None if there is none yet.

    With `exact` false the trial may not have come as far.
    """
    best = None
    for at, value in history:
        best = value if best is None else max(best, value)
        if at >= step:
            return best
    return None if exact else best


#: The rules by name.
RULES: Mapping[str, type[StopRule]] = {"asha": Asha, "median": Median}
