"""Define the reaction to an alarm and its limits, for monitors of single steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dnntrain.config.fields import Annotated, Literal, PositiveInt, Range
from dnntrain.protocols import Action, Alarm, CutState, MonitorChoice, StepGuard


@dataclass(frozen=True)
class AlarmReaction(MonitorChoice):
    """React to an alarm.

    `log` records it; `skip` leaves the step out; `rollback` restores the last checkpoint; `stop`
    ends the run with code 4.
    """

    action: Literal["log", "skip", "rollback", "stop"] = "skip"  # reaction to an alarm
    max_recoveries: PositiveInt = 3  # skips in a row, or rollbacks of the run, before it ends as diverged
    lr_factor: Annotated[float, Range(above=0, at_most=1)] = 0.5  # factor on the learning rate after a rollback

    def __post_init__(self) -> None:
        changed_options = self.get_changed_options()
        for option, actions in (("lr_factor", ("rollback",)), ("max_recoveries", ("skip", "rollback"))):
            if self.action not in actions and option in changed_options:
                raise ValueError(f"{option}={changed_options[option]} has no effect with action={self.action}")

    def make_alarm(self, event: str, reason: str, values: Mapping[str, float]) -> Alarm:
        """Return an alarm that asks for the configured reaction."""
        return Alarm(event, reason, Action[self.action.upper()], values, self.max_recoveries, self.lr_factor)


class GradientGuard(StepGuard):
    """A guard that reads loss and gradients, and measures nothing itself."""

    needs_gradients = True

    def __init__(self, reaction: AlarmReaction) -> None:
        self._reaction = reaction
        self.action = Action[reaction.action.upper()]


class Window(CutState):
    """The last `size` finite values, oldest first; its state survives a resume, but not a cut of the network."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.values: list[float] = []

    @property
    def is_ready(self) -> bool:
        """Return whether half of the window is filled: fewer values make a poor median."""
        return len(self.values) >= max(2, self._size // 2)

    def add(self, value: float) -> None:
        """Add a value if it is finite."""
        if math.isfinite(value):
            self.values = [*self.values, value][-self._size :]

    def make_state_after_cut(self, state: Mapping[str, Any], step: int) -> dict[str, Any]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {str(number): value for number, value in enumerate(self.values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.values = [float(state[str(number)]) for number in range(len(state))]
