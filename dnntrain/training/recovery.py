"""What a run remembers of skipped steps and rollbacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dnntrain.errors import DivergedError
from dnntrain.protocols import (
    Action,
    Alarm,
    Hooks,
    ScheduledParam,
    ScheduledValue,
    StepGuard,
    StepInfo,
)
from dnntrain.utils.units import pluralize

STABILITY_HINT = "lower optim.lr, add a warm-up (sched.warmup=5%) or +reg=[grad_clip]"


class RollbackRequest(Exception):
    """Step number `step`, from 1, must not be applied: the run resumes from its last checkpoint."""

    def __init__(self, step: int, alarm: Alarm) -> None:
        super().__init__(alarm.reason)
        self.step = step
        self.alarm = alarm


class Recovery:
    """The changes that reactions made for the rest of the run.

    They are saved, and not rolled back. `lr_factor` is the remaining factor of the learning rate.
    The steps `dropped_steps` are not trained (their numbers, from 1). `rollback_rows` are the rows
    of the rollbacks, with the step that each led to.
    """

    def __init__(self) -> None:
        self.lr_factor = 1.0
        self.rollbacks = 0
        self.dropped_steps: dict[int, str] = {}
        self.rollback_rows: list[tuple[int, Mapping[str, Any]]] = []
        self._skips_in_a_row = 0
        self._last_log_steps: dict[str, int] = {}

    def get_lr_factor(self, step_info: StepInfo) -> float:
        """Return the factor of the learning rate: the schedule hook of recovery."""
        return self.lr_factor

    def is_new(self, alarm: Alarm, step: int) -> bool:
        """Return False if the same alarm came in the step before: a lasting condition is recorded once."""
        last_step = self._last_log_steps.get(alarm.event)
        self._last_log_steps[alarm.event] = step
        return last_step != step - 1

    def record_applied_step(self) -> None:
        """Record that a step is applied."""
        self._skips_in_a_row = 0

    def record_skip(self, alarm: Alarm) -> None:
        """Record that a step is skipped. Raises DivergedError after too many in a row."""
        self._skips_in_a_row += 1
        if self._skips_in_a_row > alarm.max_recoveries:
            raise DivergedError(
                f"{alarm.reason}, after {pluralize(alarm.max_recoveries, 'skipped step')} in a row", STABILITY_HINT
            )

    def record_rollback(self, step: int, alarm: Alarm) -> None:
        """Record a rollback because of step number `step`. Raises DivergedError after too many."""
        if self.rollbacks >= alarm.max_recoveries:
            raise DivergedError(f"{alarm.reason}, after {pluralize(alarm.max_recoveries, 'rollback')}", STABILITY_HINT)
        self.rollbacks += 1
        self.lr_factor *= alarm.lr_factor
        if alarm.last_good_step is None:
            self.dropped_steps[step] = alarm.event
        self._skips_in_a_row = 0

    def add_rollback_row(self, step: int, row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Return the rows to write for a rollback that led to `step`.

        They are `row`, after the rows of earlier rollbacks that were cut off with the rest.
        """
        self.rollback_rows = [
            (min(step, target_step), earlier_row) for target_step, earlier_row in self.rollback_rows
        ] + [(step, row)]
        return [earlier_row for target_step, earlier_row in self.rollback_rows if target_step == step]

    def state_dict(self) -> dict[str, Any]:
        return {
            "factor": self.lr_factor,
            "rollbacks": self.rollbacks,
            "dropped": {str(step): event for step, event in self.dropped_steps.items()},
            "skips_in_a_row": self._skips_in_a_row,
            "logged": dict(self._last_log_steps),
            "told": {
                str(number): {"step": step, "row": dict(row)} for number, (step, row) in enumerate(self.rollback_rows)
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.lr_factor, self.rollbacks = float(state["factor"]), int(state["rollbacks"])
        self.dropped_steps = {int(step): str(event) for step, event in state["dropped"].items()}
        self._skips_in_a_row = int(state["skips_in_a_row"])
        self._last_log_steps = {str(event): int(step) for event, step in state["logged"].items()}
        rows = [state["told"][str(number)] for number in range(len(state["told"]))]
        self.rollback_rows = [(int(row["step"]), row["row"]) for row in rows]


def rollback_targets(guards: Sequence[StepGuard]) -> frozenset[int]:
    """Return the steps that a guard may roll back to, besides the newest checkpoint.

    If a step has no checkpoint, the last one before it is kept.
    """
    return frozenset(step for guard in guards if guard.action is Action.ROLLBACK for step in guard.rollback_steps)


def add_recovery(hooks: Hooks) -> Hooks:
    """Return `hooks` with the state and the learning-rate schedule of recovery if there are guards."""
    if not hooks.step_guards:
        return hooks
    recovery = Recovery()
    scheduled_value = ScheduledValue(ScheduledParam.LEARNING_RATE, recovery.get_lr_factor)
    return replace(
        hooks, scheduled_values=(*hooks.scheduled_values, scheduled_value), state={**hooks.state, "recovery": recovery}
    )
