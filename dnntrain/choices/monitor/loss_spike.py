"""Detect a loss far above earlier losses by a robust z-score.

The z-score uses median and median absolute deviation (Iglewicz & Hoaglin, 1993).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from dnntrain.choices.monitor._reactions import AlarmReaction, WindowGuard
from dnntrain.config.fields import Annotated, Positive, Range
from dnntrain.protocols import Action, Alarm, BuildContext, Hooks, StepStats

#: Standard deviation of a normal distribution, in median absolute deviations.
_MADS_PER_STD = 1.4826

#: Least deviation as a part of the median, so that nearly equal losses do not turn the next one into a spike.
_MIN_DEVIATION_SHARE = 0.05


@dataclass(frozen=True)
class LossSpike(AlarmReaction):
    """Raise an alarm if the robust z-score of the loss is above `max_z_score`.

    The score is (loss - median) / max(1.4826 * MAD, 0.05 * median) over the last `window` steps.
    Begins once half of the window is filled. A loss that is not finite is a spike at any time. The
    window excludes losses of steps that are skipped or rolled back.
    """

    window: Annotated[int, Range(at_least=4)] = 50  # number of previous steps whose median is the reference
    max_z_score: Positive = 10.0  # largest accepted distance above the median, in robust standard deviations

    def build(self, context: BuildContext) -> Hooks:
        guard = LossSpikeGuard(self)
        return Hooks(step_guards=(guard,), bindings=(guard.bind,), state={"loss_spike": guard.window})


class LossSpikeGuard(WindowGuard):
    """Keep the last losses."""

    def __init__(self, options: LossSpike) -> None:
        super().__init__(options, options.window)
        self._threshold = options.max_z_score

    def judge_in_window(self, stats: StepStats) -> Alarm | None:
        score = compute_robust_score(self.window.values, stats.loss) if self.window.is_ready else 0.0
        if math.isfinite(stats.loss) and score <= self._threshold:
            self.window.add(stats.loss)
            return None
        reason = f"the loss of step {stats.step} is {stats.loss:.4g}"
        if self.window.is_ready:
            reason += f", {score:.1f} robust deviations above the median of {median(self.window.values):.4g}"
        if self.action is Action.LOG:
            self.window.add(stats.loss)
        return self._reaction.make_alarm("loss_spike", reason, {"value": stats.loss, "score": score})


def compute_robust_score(values: Sequence[float], value: float) -> float:
    """Return the robust z-score of `value` relative to `values`.

    The score is (value - median) / max(1.4826 * median absolute deviation, 0.05 * |median|), and
    infinite if `value` is not finite.
    """
    if not math.isfinite(value):
        return math.inf
    center = median(values)
    deviation = _MADS_PER_STD * median(abs(item - center) for item in values)
    return (value - center) / max(deviation, _MIN_DEVIATION_SHARE * abs(center), 1e-12)
