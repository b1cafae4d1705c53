"""Detect a gradient whose norm explodes relative to earlier norms.

Source: Pascanu, Mikolov & Bengio, 2013.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from dnntrain.choices.monitor._reactions import AlarmReaction, WindowGuard
from dnntrain.config.fields import Annotated, Range
from dnntrain.protocols import Action, Alarm, BuildContext, Hooks, StepStats


@dataclass(frozen=True)
class GradientNorm(AlarmReaction):
    """Raise an alarm if the gradient norm is too far above its median.

    The global L2 norm, before clipping, must not exceed `max_ratio` times the median of the last
    `window` steps. Begins once half of the window is filled. A norm that is not finite raises an
    alarm at any time.
    """

    window: Annotated[int, Range(at_least=4)] = 50  # number of previous steps whose median is the reference
    max_ratio: Annotated[float, Range(above=1)] = 20.0  # largest accepted ratio of the norm to the median

    def build(self, context: BuildContext) -> Hooks:
        guard = GradientNormGuard(self)
        return Hooks(step_guards=(guard,), bindings=(guard.bind,), state={"gradient_norm": guard.window})


class GradientNormGuard(WindowGuard):
    """Keep the last norms."""

    def __init__(self, options: GradientNorm) -> None:
        super().__init__(options, options.window)
        self._factor = options.max_ratio

    def judge_in_window(self, stats: StepStats) -> Alarm | None:
        norm = stats.gradient_norm
        bound = self._factor * median(self.window.values) if self.window.is_ready else float("inf")
        if norm < float("inf") and norm <= bound:
            self.window.add(norm)
            return None
        reason = f"the gradient norm of step {stats.step} is {norm:.4g}"
        if self.window.is_ready:
            reason += f", and {self._factor:g} times the median is {bound:.4g}"
        if self.action is Action.LOG:
            self.window.add(norm)
        return self._reaction.make_alarm("gradient_norm", reason, {"value": norm})
