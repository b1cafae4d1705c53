"""Another schedule, times a factor that falls where the validation metric no longer improves (torch's ReduceLROnPlateau)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dnntrain.choices.sched._metric_scaled import Validated
from dnntrain.config.fields import Annotated, Literal, NonNegative, NonNegativeInt, Probability, Range
from dnntrain.errors import ConfigError
from dnntrain.protocols import Adjusted, Context, Parts


@dataclass(frozen=True)
class Plateau(Validated):
    """After more than `patience` evaluations in a row without improvement: scale = max(scale * factor, minimum).

    An evaluation improves where it is better than the best one by more than the threshold: relative, the best value times
    `threshold`; absolute, `threshold` itself. After a fall, `cooldown` evaluations do not count.
    """

    metric: Literal["loss", "accuracy"] = "loss"  # validation metric that is watched
    mode: Literal["auto", "min", "max"] = "auto"  # better is less or more; auto: less loss, more accuracy
    factor: Annotated[float, Range(above=0, below=1)] = 0.1  # what the rate is multiplied with at a fall
    patience: NonNegativeInt = 10  # evaluations without improvement that are borne; the next one is a fall
    threshold: NonNegative = 1e-4  # an improvement is more than this
    threshold_mode: Literal["relative", "absolute"] = "relative"  # of the best value, or as it is
    cooldown: NonNegativeInt = 0  # evaluations after a fall that do not count
    minimum: Probability = 0.0  # smallest scale: least part of what the base schedule gives

    def build(self, context: Context) -> Parts:
        mode = {"loss": "min", "accuracy": "max"}[self.metric]
        if self.mode not in ("auto", mode):
            raise ConfigError(
                f"sched.mode={self.mode} would call a worse {self.metric} the better one",
                f"use sched.mode={mode} or auto, or watch another sched.metric",
            )
        return self.scaled("plateau", PlateauScale(self), context)


class PlateauScale:
    """The scale, and what it is decided from: the best value and the evaluations since."""

    def __init__(self, knobs: Plateau) -> None:
        self._knobs = knobs
        self._sign = -1.0 if knobs.metric == "loss" else 1.0
        self._best: float | None = None
        self._bad = 0
        self._resting = 0
        self.scale = 1.0

    def __call__(self, row: Mapping[str, Any]) -> Adjusted | None:
        if row["split"] != "val":
            return None
        knobs = self._knobs
        value = float(row[knobs.metric])
        if self._improves(value):
            self._best, self._bad = value, 0
        else:
            self._bad += 1
        if self._resting:
            self._resting, self._bad = self._resting - 1, 0
        if self._bad <= knobs.patience:
            return None
        waited, self._bad, self._resting = self._bad, 0, knobs.cooldown
        scale = max(self.scale * knobs.factor, knobs.minimum)
        if scale >= self.scale:
            return None
        best = "a number" if self._best is None else f"{self._best:.6g}"
        reason = (
            f"validation {knobs.metric} has not improved on {best} for {waited} evaluations: "
            f"learning rate scale {self.scale:.4g} → {scale:.4g}"
        )
        self.scale = scale
        return Adjusted("plateau", reason, {"lr_scale": scale})

    def _improves(self, value: float) -> bool:
        if not math.isfinite(value) or self._best is None:
            return math.isfinite(value)
        margin = self._knobs.threshold * (abs(self._best) if self._knobs.threshold_mode == "relative" else 1.0)
        return self._sign * value > self._sign * self._best + margin

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "bad": self._bad, "resting": self._resting, "scale": self.scale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._best, self._bad = state["best"], int(state["bad"])
        self._resting, self.scale = int(state["resting"]), float(state["scale"])
