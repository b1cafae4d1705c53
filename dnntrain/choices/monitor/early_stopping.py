"""Stop early if the validation metric no longer improves.

Source: Prechelt, "Early stopping — but when?", 1998.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from dnntrain.config.fields import NonNegative, PositiveInt
from dnntrain.protocols import (
    BuildContext,
    Hooks,
    MetricInfo,
    MonitorChoice,
    ReplayedCallback,
    StopTraining,
    TrainerHandles,
    is_network_change,
)


@dataclass(frozen=True)
class EarlyStopping(MonitorChoice):
    """Stop after `patience` evaluations in a row without improvement.

    An improvement exceeds the best value by more than `min_delta`. Evaluations count from the last
    pruning of the network on.
    """

    metric: str | None = None  # validation metric
    patience: PositiveInt = 5  # number of evaluations without improvement before the run ends
    min_delta: NonNegative = 0.0  # an improvement must exceed this

    uses_validation: ClassVar[bool] = True
    is_replayed: ClassVar[bool] = True

    def build(self, context: BuildContext) -> Hooks:
        watcher = PatienceCounter(
            context.get_metric(self.metric, "monitor.early_stopping.metric"), self.patience, self.min_delta
        )
        return Hooks(metric_callbacks=(watcher,), bindings=(watcher.bind,), state={"early_stopping": watcher})


class PatienceCounter(ReplayedCallback):
    """Count evaluations since the best one, since the run was extended, or since the network was pruned."""

    def __init__(self, metric: MetricInfo, patience: int, threshold: float) -> None:
        self._metric, self._patience, self._threshold = metric, patience, threshold
        self._sign = metric.sign
        self._best: float | None = None
        self._since_best = 0
        self._from_step = 0

    def bind(self, handles: TrainerHandles) -> None:
        self._from_step = handles.last_change_step

    def reset(self) -> None:
        self._best, self._since_best = None, 0

    def __call__(self, row: Mapping[str, Any]) -> StopTraining | None:
        if row["split"] == "event" and row["event"] == "extended":
            self._since_best = 0
        if is_network_change(row):
            self.reset()
        if row["split"] != "val" or row["step"] < self._from_step:
            return None
        value = self._sign * float(row[self._metric.name])
        if math.isfinite(value) and (self._best is None or value > self._best + self._threshold):
            self._best, self._since_best = value, 0
            return None
        self._since_best += 1
        if self._since_best < self._patience:
            return None
        best = "nan" if self._best is None else f"{self._sign * self._best:.4f}"
        return StopTraining(
            f"early stopping: validation {self._metric.name} did not improve on {best} for {self._patience} evaluations"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "since_best": self._since_best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._best, self._since_best = state["best"], int(state["since_best"])
