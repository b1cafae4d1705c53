"""A loss far above those before it: robust z-score, from median and median absolute deviation (Iglewicz & Hoaglin, 1993)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from dnntrain.choices.monitor._reactions import Reaction, StepGuard, Window
from dnntrain.config.fields import Annotated, Positive, Range
from dnntrain.protocols import Action, Alarm, Context, Need, Parts, Seen

#: The standard deviation of a normal distribution, in median absolute deviations.
_DEVIATION = 1.4826

#: Least deviation, as a part of the median: losses that hardly differ make no spike of the next one.
_LEAST = 0.05


@dataclass(frozen=True)
class LossSpike(Reaction):
    """Alarm where (loss - median) / max(1.4826 * MAD, 0.05 * median) of the last `window` steps is above `threshold`.

    Begins once half of the window is filled. A loss that is not finite is a spike at any time. What is skipped or rolled back does not
    enter the window.
    """

    window: Annotated[int, Range(at_least=4)] = 50  # steps that a loss is compared with
    threshold: Positive = 10.0  # robust standard deviations above the median

    needs: ClassVar[frozenset[Need]] = frozenset()

    def build(self, context: Context) -> Parts:
        guard = LossSpikeGuard(self)
        return Parts(guards=(guard,), state={"loss_spike": guard.window})


class LossSpikeGuard(StepGuard):
    """Keeps the last losses."""

    def __init__(self, knobs: LossSpike) -> None:
        super().__init__(knobs)
        self._threshold = knobs.threshold
        self.window = Window(knobs.window)

    def judge(self, seen: Seen) -> Alarm | None:
        score = robust_score(self.window.values, seen.loss) if self.window.ready else 0.0
        if math.isfinite(seen.loss) and score <= self._threshold:
            self.window.add(seen.loss)
            return None
        reason = f"the loss of step {seen.step} is {seen.loss:.4g}"
        if self.window.ready:
            reason += f", {score:.1f} robust deviations above the median of {median(self.window.values):.4g}"
        if self.action is Action.LOG:
            self.window.add(seen.loss)
        return self._reaction.alarm("loss_spike", reason, {"value": seen.loss, "score": score})


def robust_score(values: Sequence[float], value: float) -> float:
    """(value - median) / max(1.4826 * median absolute deviation, 0.05 * |median|) of `values`; infinite where `value` is not finite."""
    if not math.isfinite(value):
        return math.inf
    middle = median(values)
    deviation = _DEVIATION * median(abs(item - middle) for item in values)
    return (value - middle) / max(deviation, _LEAST * abs(middle), 1e-12)
