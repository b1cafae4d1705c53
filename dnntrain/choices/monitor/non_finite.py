"""Detect a loss or a gradient that is not finite, on any rank."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dnntrain.choices.monitor._reactions import AlarmReaction, GradientGuard
from dnntrain.config.fields import Literal
from dnntrain.protocols import Alarm, BuildContext, Hooks, StepStats


@dataclass(frozen=True)
class NonFinite(AlarmReaction):
    """Check the mean loss and the global gradient norm before each step is applied.

    With float16, the loss scale handles a gradient that overflows while the loss is finite.
    """

    # With `log` the update is applied, so the run mostly ends at the next row of metrics.
    # The event names the step where it began.
    action: Literal["log", "skip", "rollback", "stop"] = "skip"  # reaction to an alarm

    def build(self, context: BuildContext) -> Hooks:
        return Hooks(step_guards=(NonFiniteGuard(self),))


class NonFiniteGuard(GradientGuard):
    """A guard without state."""

    def judge(self, stats: StepStats) -> Alarm | None:
        if math.isfinite(stats.loss) and math.isfinite(stats.gradient_norm):
            return None
        quantity, value = (
            ("the gradient", stats.gradient_norm) if math.isfinite(stats.loss) else ("the loss", stats.loss)
        )
        return self._reaction.make_alarm(
            "non_finite", f"{quantity} of step {stats.step} is not finite", {"value": value}
        )
