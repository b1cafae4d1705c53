"""Define the reaction to an alarm and its limits, for monitors of single steps."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dnntrain.config.fields import Annotated, Literal, PositiveInt, Range
from dnntrain.protocols import Action, Alarm, CutState, MonitorChoice, StepGuard, StepStats, TrainerHandles


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


class WindowGuard(GradientGuard):
    """A guard that compares a step with a window of the steps before.

    The window begins again when the network is cut, or when weights of it become zero.
    """

    def __init__(self, reaction: AlarmReaction, size: int) -> None:
        super().__init__(reaction)
        self.window = Window(size)
        self._mask_steps: tuple[int, ...] = ()
        self._last_step: int | None = None

    def bind(self, handles: TrainerHandles) -> None:
        self._mask_steps = handles.mask_steps

    def judge(self, stats: StepStats) -> Alarm | None:
        before = stats.step - 1
        # Steps that are dropped are not judged, and a rollback returns to an earlier step.
        first = before if self._last_step is None else min(self._last_step, before)
        if any(first <= step <= before for step in self._mask_steps):
            self.window.values = []
        self._last_step = stats.step
        return self.judge_in_window(stats)

    @abstractmethod
    def judge_in_window(self, stats: StepStats) -> Alarm | None:
        """Return the alarm of this step, or None; add its value to the window."""
