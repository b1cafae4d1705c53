"""One over the root of the step.

Vaswani et al., "Attention is all you need", 2017; Zhai et al., "Scaling vision transformers", 2022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dnntrain.choices.sched._base import Curve, Schedule, convert_to_positive_steps
from dnntrain.config.fields import Duration, PositiveDuration
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """factor = sqrt(timescale / (timescale + done)).

    It is 1 after the warm-up and 0.5 after three timescales. With sched.timescale = sched.warmup and
    sched.warmup_start_factor=0 it is Vaswani's min(step / w, sqrt(w / step)). It does not depend on the
    length of the run, which a cool-down may end at any time.
    """

    timescale: PositiveDuration = Duration(
        5, "%"
    )  # length over which the factor falls to 1/sqrt(2): 10000step, 1ep or 5%

    def make_curve(self, context: BuildContext, length: float) -> Curve:
        timescale = convert_to_positive_steps(
            self.timescale, context, "sched.timescale", is_default=self.timescale == InverseSqrt.timescale
        )
        return lambda done: math.sqrt(timescale / (timescale + done))

    def build(self, context: BuildContext) -> Hooks:
        return self.build_hooks(context)
