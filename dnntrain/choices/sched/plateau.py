"""Another schedule, times a factor that falls if the validation metric no longer improves.

It follows torch's ReduceLROnPlateau.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dnntrain.choices.sched._metric_scaled import MetricScaledSchedule
from dnntrain.config.fields import Annotated, Literal, NonNegative, NonNegativeInt, Probability, Range
from dnntrain.errors import ConfigError
from dnntrain.protocols import Adjustment, BuildContext, Hooks, MetricInfo, is_network_change


@dataclass(frozen=True)
class Plateau(MetricScaledSchedule):
    """scale = max(scale * lr_factor, min_factor) if the metric does not improve.

    The scale falls after more than `patience` evaluations in a row without improvement. An
    evaluation is an improvement if it is better than the best one by more than a margin: relative,
    the best value times `min_delta`; absolute, `min_delta` itself. After a fall, `cooldown_evals`
    evaluations do not count. A pruned network has its own best value.
    """

    metric: str = "loss"  # validation metric
    mode: Literal["auto", "min", "max"] = (
        "auto"  # min or max: direction of an improvement; auto: lower loss, higher accuracy
    )
    lr_factor: Annotated[float, Range(above=0, below=1)] = 0.1  # factor of each reduction of the rate
    patience: NonNegativeInt = 10  # number of evaluations without improvement before the rate is reduced
    min_delta: NonNegative = 1e-4  # an improvement must exceed this
    min_delta_mode: Literal["relative", "absolute"] = "relative"  # relative (to the best value) or absolute
    cooldown_evals: NonNegativeInt = 0  # number of evaluations after a reduction that do not count
    min_factor: Probability = 0.0  # smallest scale of the base schedule

    def build(self, context: BuildContext) -> Hooks:
        metric = context.get_metric(self.metric, "sched.metric")
        mode = "max" if metric.higher_is_better else "min"
        if self.mode not in ("auto", mode):
            raise ConfigError(
                f"sched.mode={self.mode} must be {mode} for sched.metric={self.metric}",
                f"use sched.mode={mode} or auto, or watch another sched.metric",
            )
        return self.build_scaled_hooks("plateau", PlateauScale(self, metric), context)


class PlateauScale:
    """The scale, the best value, and the number of evaluations since."""

    def __init__(self, options: Plateau, metric: MetricInfo) -> None:
        self._options = options
        self._sign = metric.sign
        self._best: float | None = None
        self._bad_evaluations = 0
        self._cooldown_left = 0
        self.scale = 1.0

    def __call__(self, row: Mapping[str, Any]) -> Adjustment | None:
        if is_network_change(row):
            self._best, self._bad_evaluations = None, 0
        if row["split"] != "val":
            return None
        options = self._options
        value = float(row[options.metric])
        if self._is_improvement(value):
            self._best, self._bad_evaluations = value, 0
        else:
            self._bad_evaluations += 1
        if self._cooldown_left:
            self._cooldown_left, self._bad_evaluations = self._cooldown_left - 1, 0
        if self._bad_evaluations <= options.patience:
            return None
        evaluation_count, self._bad_evaluations, self._cooldown_left = self._bad_evaluations, 0, options.cooldown_evals
        scale = max(self.scale * options.lr_factor, options.min_factor)
        if scale >= self.scale:
            return None
        best = "a number" if self._best is None else f"{self._best:.6g}"
        reason = (
            f"validation {options.metric} did not improve on {best} for {evaluation_count} evaluations: "
            f"learning rate scale {self.scale:.4g} → {scale:.4g}"
        )
        self.scale = scale
        return Adjustment("plateau", reason, {"lr_scale": scale})

    def _is_improvement(self, value: float) -> bool:
        if not math.isfinite(value) or self._best is None:
            return math.isfinite(value)
        margin = self._options.min_delta * (abs(self._best) if self._options.min_delta_mode == "relative" else 1.0)
        return self._sign * value > self._sign * self._best + margin

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "bad": self._bad_evaluations, "resting": self._cooldown_left, "scale": self.scale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._best, self._bad_evaluations = state["best"], int(state["bad"])
        self._cooldown_left, self.scale = int(state["resting"]), float(state["scale"])
