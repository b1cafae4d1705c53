"""Base class of schedules that scale another schedule by validation metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

from dnntrain.choices.sched._base import Schedule, WarmupSchedule
from dnntrain.choices.sched._schedule_string import parse_schedule
from dnntrain.config.fields import Annotated, Text
from dnntrain.protocols import Adjustment, BuildContext, Hooks, ScheduledParam, ScheduledValue


class MetricScale(Protocol):
    """A factor that rows of metrics change, with a state that checkpoints hold."""

    @property
    def scale(self) -> float: ...

    def __call__(self, row: Mapping[str, Any]) -> Adjustment | None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class MetricScaledSchedule(WarmupSchedule):
    """factor = factor of `base` at the step, times a scale.

    Each evaluation of the validation split may change the scale.
    """

    base: Annotated[
        str, Text(r"[a-z]\w*(:\w+=[^:\s]+)*", "a schedule such as cosine, or cosine:end_factor=0.1:cooldown=5%", 200)
    ] = "constant"  # NAME:KEY=VALUE…, the schedule that is scaled

    def __post_init__(self) -> None:
        self.make_base_schedule()

    uses_validation: ClassVar[bool] = True

    def notes(self) -> tuple[str, ...]:
        return ("the learning rate follows the base schedule times a scale, which each evaluation may change",)

    def make_base_schedule(self) -> Schedule:
        """Return the schedule `base`, with the warm-up."""
        schedule = parse_schedule(self.base, "sched.base", ("warmup", "applies_to")).schedule
        return replace(schedule, warmup=self.warmup, warmup_start_factor=self.warmup_start_factor)

    def build_scaled_hooks(self, name: str, scale: MetricScale, context: BuildContext) -> Hooks:
        """Return the hooks of `base` with the scaled learning rate; `name` names the state."""
        hooks: Hooks = self.make_base_schedule().build(context)
        scheduled_value = ScheduledValue(ScheduledParam.LEARNING_RATE, lambda step_info: scale.scale)
        return replace(
            hooks,
            scheduled_values=(*hooks.scheduled_values, scheduled_value),
            metric_callbacks=(scale,),
            state={name: scale},
        )
