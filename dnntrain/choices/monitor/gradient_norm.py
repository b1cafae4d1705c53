"""A gradient whose norm explodes, compared with those before it (Pascanu, Mikolov & Bengio, 2013)."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from dnntrain.choices.monitor._reactions import Reaction, StepGuard, Window
from dnntrain.config.fields import Annotated, Range
from dnntrain.protocols import Action, Alarm, Context, Need, Parts, Seen


@dataclass(frozen=True)
class GradientNorm(Reaction):
    """Alarm where the global L2 norm, before clipping, is above `factor` times the median of the last `window` steps.

    Begins once half of the window is filled. A norm that is not finite is one at any time.
    """

    window: Annotated[int, Range(at_least=4)] = 50  # steps that a norm is compared with
    factor: Annotated[float, Range(above=1)] = 20.0  # how many times the median is too much

    needs: ClassVar[frozenset[Need]] = frozenset()

    def build(self, context: Context) -> Parts:
        guard = GradientNormGuard(self)
        return Parts(guards=(guard,), state={"gradient_norm": guard.window})


class GradientNormGuard(StepGuard):
    """Keeps the last norms."""

    def __init__(self, knobs: GradientNorm) -> None:
        super().__init__(knobs)
        self._factor = knobs.factor
        self.window = Window(knobs.window)

    def judge(self, seen: Seen) -> Alarm | None:
        norm = seen.gradient_norm
        bound = self._factor * median(self.window.values) if self.window.ready else float("inf")
        if norm < float("inf") and norm <= bound:
            self.window.add(norm)
            return None
        reason = f"the gradient norm of step {seen.step} is {norm:.4g}"
        if self.window.ready:
            reason += f", and {self._factor:g} times the median is {bound:.4g}"
        if self.action is Action.LOG:
            self.window.add(norm)
        return self._reaction.alarm("gradient_norm", reason, {"value": norm})
