"""What the schedules that look at the validation part share: another schedule beneath, times a factor that they decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

from dnntrain.choices.sched._base import Schedule, WarmupSchedule
from dnntrain.choices.sched._schedule_string import parse_schedule
from dnntrain.config.fields import Annotated, Text
from dnntrain.protocols import Adjustment, BuildContext, Hooks, ScheduledParam, ScheduledValue


class MetricScale(Protocol):
    """A factor that rows of metrics change: a decision whose state is saved."""

    @property
    def scale(self) -> float: ...

    def __call__(self, row: Mapping[str, Any]) -> Adjustment | None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class MetricScaledSchedule(WarmupSchedule):
    """factor = that of `base` at the step, times a scale that each evaluation of the validation part may change."""

    base: Annotated[
        str, Text(r"[a-z]\w*(:\w+=[^:\s]+)*", "a schedule such as cosine, or cosine:end_factor=0.1:cooldown=5%", 200)
    ] = "constant"  # NAME:KEY=VALUE…, the schedule that is scaled

    def __post_init__(self) -> None:
        self.make_base_schedule()

    uses_validation: ClassVar[bool] = True

    def notes(self) -> tuple[str, ...]:
        return ("the learning rate is that of the base schedule, scaled by what each evaluation finds",)

    def make_base_schedule(self) -> Schedule:
        """The schedule `base`, with the warm-up."""
        schedule = parse_schedule(self.base, "sched.base", ("warmup", "applies_to")).schedule
        return replace(schedule, warmup=self.warmup, warmup_start_factor=self.warmup_start_factor)

    def build_scaled_hooks(self, name: str, scale: MetricScale, context: BuildContext) -> Hooks:
        """The parts of `base` with the learning rate scaled; `name` is that of the saved state."""
        hooks: Hooks = self.make_base_schedule().build(context)
        scheduled_value = ScheduledValue(ScheduledParam.LEARNING_RATE, lambda step_info: scale.scale)
        return replace(
            hooks,
            scheduled_values=(*hooks.scheduled_values, scheduled_value),
            metric_callbacks=(scale,),
            state={name: scale},
        )
