"""What monitors of single steps share: what is done about an alarm, and how often."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dnntrain.config.fields import Annotated, Literal, PositiveInt, Range
from dnntrain.protocols import Action, Alarm, MonitorChoice, StepGuard


@dataclass(frozen=True)
class AlarmReaction(MonitorChoice):
    """`log` writes it down; `skip` leaves the step out; `rollback` goes back to the last checkpoint; `stop` ends the run with code 4."""

    action: Literal["log", "skip", "rollback", "stop"] = "skip"  # reaction to an alarm
    max_recoveries: PositiveInt = 3  # skips in a row, or rollbacks of the run, before it ends as diverged
    lr_factor: Annotated[float, Range(above=0, at_most=1)] = 0.5  # factor on the learning rate after a rollback

    def __post_init__(self) -> None:
        changed_options = self.get_changed_options()
        for option, actions in (("lr_factor", ("rollback",)), ("max_recoveries", ("skip", "rollback"))):
            if self.action not in actions and option in changed_options:
                raise ValueError(f"{option}={changed_options[option]} has no effect with action={self.action}")

    def make_alarm(self, event: str, reason: str, values: Mapping[str, float]) -> Alarm:
        """The alarm that asks for what is set here."""
        return Alarm(event, reason, Action[self.action.upper()], values, self.max_recoveries, self.lr_factor)


class GradientGuard(StepGuard):
    """A guard that looks at loss and gradients and measures nothing itself."""

    needs_gradients = True

    def __init__(self, reaction: AlarmReaction) -> None:
        self._reaction = reaction
        self.action = Action[reaction.action.upper()]


class Window:
    """The last `size` finite values, oldest first; its state survives a resume."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.values: list[float] = []

    @property
    def is_ready(self) -> bool:
        """True from half of the size on: with fewer values a median says little."""
        return len(self.values) >= max(2, self._size // 2)

    def add(self, value: float) -> None:
        """Takes a value, unless it is not finite."""
        if math.isfinite(value):
            self.values = [*self.values, value][-self._size :]

    def state_dict(self) -> dict[str, Any]:
        return {str(number): value for number, value in enumerate(self.values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.values = [float(state[str(number)]) for number in range(len(state))]
