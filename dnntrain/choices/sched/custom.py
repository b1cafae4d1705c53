"""Your own schedule: a function of the progress in a Python file, which is run as code.

def sawtooth(progress: float, teeth: int = 3) -> float:
    return 1 - (progress * teeth) % 1

dnntrain sched=custom sched.file=mine.py sched.name=sawtooth sched.args.teeth=4
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dnntrain.choices.sched._base import Curve, Schedule
from dnntrain.config.fields import Arguments
from dnntrain.protocols import BuildContext, Hooks
from dnntrain.utils.user_code import make_result_error
from dnntrain.utils.user_objects import load_function


@dataclass(frozen=True)
class CustomSchedule(Schedule):
    """factor = your function of the progress, which goes from 0 to 1 between warm-up and cool-down."""

    file: str | None = None  # path of a Python file, which is run
    name: str | None = None  # name of the function in the file, or of a class; null: its only one
    args: Arguments = Arguments()  # further arguments of the function, as sched.args.teeth=4

    def list_code_options(self) -> tuple[str, ...]:
        return ("file",) if self.file else ()

    def make_curve(self, context: BuildContext, length: float) -> Curve:
        function = load_function(self.file, "sched", self.name, self.args.values)

        def curve(done: float) -> float:
            factor = function(min(max(done / length, 0.0), 1.0))
            if not isinstance(factor, int | float) or not math.isfinite(factor) or factor < 0:
                raise make_result_error(f"must return a finite number of at least 0, not {factor!r}", function)
            return float(factor)

        return curve

    def build(self, context: BuildContext) -> Hooks:
        return self.build_hooks(context)
