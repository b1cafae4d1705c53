"""What the schedules that look at the validation part share: another schedule beneath, times a factor that they decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

from dnntrain.choices.sched._base import Schedule, WarmUp
from dnntrain.choices.sched._schedule_string import written
from dnntrain.config.fields import Annotated, Text
from dnntrain.protocols import Adjusted, Context, Control, Need, Parts, Target


class Scale(Protocol):
    """A factor that rows of metrics change: a decision whose state is saved."""

    @property
    def scale(self) -> float: ...

    def __call__(self, row: Mapping[str, Any]) -> Adjusted | None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Validated(WarmUp):
    """factor = that of `base` at the step, times a scale that each evaluation of the validation part may change."""

    base: Annotated[
        str, Text(r"[a-z]\w*(:\w+=[^:\s]+)*", "a schedule such as cosine, or cosine:end=0.1:cooldown=5%", 200)
    ] = "constant"  # NAME:KNOB=VALUE…, the schedule that is scaled

    needs: ClassVar[frozenset[Need]] = frozenset()
    looks_at_validation: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.beneath()

    def beneath(self) -> Schedule:
        """The schedule `base`, with the warm-up."""
        schedule = written(self.base, "sched.base", ("warmup", "param")).schedule
        return replace(schedule, warmup=self.warmup, warmup_from=self.warmup_from)

    def scaled(self, name: str, scale: Scale, context: Context) -> Parts:
        """The parts of `base` with the learning rate scaled; `name` is that of the saved state."""
        parts: Parts = self.beneath().build(context)  # type: ignore[attr-defined]
        control = Control(Target.LEARNING_RATE, lambda moment: scale.scale)
        return replace(parts, controls=(*parts.controls, control), decisions=(scale,), state={name: scale})
