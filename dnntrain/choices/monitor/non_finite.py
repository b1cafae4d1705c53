"""A loss or a gradient that is not a finite number, on any rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from dnntrain.choices.monitor._reactions import Reaction, StepGuard
from dnntrain.config.fields import Literal
from dnntrain.protocols import Alarm, Context, Need, Parts, Seen


@dataclass(frozen=True)
class NonFinite(Reaction):
    """Looks at the mean loss and the global gradient norm of each step, before the step is applied.

    With float16, a gradient that overflows where the loss is finite is left to the loss scale.
    """

    # As the update is applied, what is only logged mostly ends the run at the next row of metrics: the event says where it began.
    action: Literal["log", "skip", "rollback", "stop"] = (
        "skip"  # log (recorded, the step applied as it is), skip, rollback or stop: what is done about it
    )

    needs: ClassVar[frozenset[Need]] = frozenset()

    def build(self, context: Context) -> Parts:
        return Parts(guards=(NonFiniteGuard(self),))


class NonFiniteGuard(StepGuard):
    """Has no state."""

    def judge(self, seen: Seen) -> Alarm | None:
        if math.isfinite(seen.loss) and math.isfinite(seen.gradient_norm):
            return None
        what, value = ("the gradient", seen.gradient_norm) if math.isfinite(seen.loss) else ("the loss", seen.loss)
        return self._reaction.alarm("non_finite", f"{what} of step {seen.step} is not finite", {"value": value})
