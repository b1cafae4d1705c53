"""Another schedule, times a function of the validation loss.

The idea is Polyak's ("Introduction to optimization", 1987): the step that gets nearest to the
minimum is (f(x) - f*) / |g|², so the rate should fall with the remaining distance. Here the
distance is the validation loss above the floor, relative to the first evaluation, and the
gradient's norm is left out. This form is the project's own; no paper describes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dnntrain.choices.sched._metric_scaled import MetricScaledSchedule
from dnntrain.config.fields import Literal, NonNegative, Positive, Probability
from dnntrain.protocols import Adjustment, BuildContext, Hooks


@dataclass(frozen=True)
class Adaptive(MetricScaledSchedule):
    """scale = ((loss - loss_floor) / (first - loss_floor)) ** power, from `min_factor` to 1.

    `first` is the first evaluated loss; before it the scale is 1. A loss that is not finite leaves
    the scale unchanged.
    """

    loss_floor: NonNegative = 0.0  # loss at which the scale is min_factor
    power: Positive = 1.0  # exponent; 0.5: falls later; 2: falls earlier
    min_factor: Probability = 0.01  # smallest scale
    follow: Literal["best", "last"] = (
        "best"  # best (lowest validation loss so far, so that the rate never rises) or last
    )

    def build(self, context: BuildContext) -> Hooks:
        return self.build_scaled_hooks("adaptive", AdaptiveScale(self), context)


def compute_scale(loss: float, first: float, floor: float, power: float, minimum: float) -> float:
    """Return the scale for a validation loss."""
    if loss <= floor or first <= floor:
        return minimum
    share: float = ((loss - floor) / (first - floor)) ** power
    return min(max(share, minimum), 1.0)


class AdaptiveScale:
    """The scale, the first loss, and the best loss since."""

    def __init__(self, options: Adaptive) -> None:
        self._options = options
        self._first_loss: float | None = None
        self._best_loss = math.inf
        self.scale = 1.0

    def __call__(self, row: Mapping[str, Any]) -> Adjustment | None:
        if row["split"] != "val" or not math.isfinite(loss := float(row["loss"])):
            return None
        options = self._options
        self._first_loss = loss if self._first_loss is None else self._first_loss
        self._best_loss = min(self._best_loss, loss)
        reference_loss = self._best_loss if options.follow == "best" else loss
        scale = compute_scale(reference_loss, self._first_loss, options.loss_floor, options.power, options.min_factor)
        if scale == self.scale:
            return None
        reason = (
            f"{options.follow} validation loss {reference_loss:.6g}, the first was {self._first_loss:.6g}: "
            f"learning rate scale {self.scale:.4g} → {scale:.4g}"
        )
        self.scale = scale
        return Adjustment("adaptive", reason, {"lr_scale": scale})

    def state_dict(self) -> dict[str, Any]:
        best = self._best_loss if self._first_loss is not None else None
        return {"first": self._first_loss, "best": best, "scale": self.scale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._first_loss, self.scale = state["first"], float(state["scale"])
        self._best_loss = math.inf if state["best"] is None else float(state["best"])
