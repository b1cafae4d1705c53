"""Detect units that give zero for every example, and so learn nothing.

Source: Lu et al., "Dying ReLU and initialization", 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dnntrain.choices.monitor._reactions import AlarmReaction
from dnntrain.config.fields import Annotated, Literal, PositiveInt, Range, RefusedWords
from dnntrain.nn.placeholder_rows import is_ignoring_rows
from dnntrain.protocols import (
    Action,
    Alarm,
    BuildContext,
    CutState,
    Hooks,
    LayoutRequirement,
    StepGuard,
    StepStats,
    StepTiming,
    TrainerHandles,
)


@dataclass(frozen=True)
class DeadUnits(AlarmReaction):
    """Count dead inputs of convolutions and linear layers, except the first layer.

    An input is a channel of a convolution or a feature of a linear layer. It is dead if it was zero
    for all examples of all ranks in the last `window` of every `every_steps` steps. `rollback`
    restores the last checkpoint from before the steps of the last count within `max_dead_fraction`,
    or the start of the run. All later steps are then trained again at the lower rate, because it is
    unknown which of them killed units.
    """

    action: Annotated[
        Literal["log", "rollback", "stop"],
        RefusedWords(
            ("skip",),
            "does not revive units: they died in steps before the skipped one; use monitor.dead_units.action=rollback",
        ),
    ] = "log"  # reaction to an alarm
    max_recoveries: PositiveInt = 3  # rollbacks of the run before it ends as diverged
    lr_factor: Annotated[float, Range(above=0, below=1)] = 0.5  # factor on the learning rate after a rollback
    max_dead_fraction: Annotated[float, Range(above=0, at_most=1)] = 0.5  # largest accepted fraction of dead units
    every_steps: PositiveInt = 100  # steps between two counts
    window: PositiveInt = 10  # steps that a count covers

    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset({LayoutRequirement.FEATURES})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window > self.every_steps:
            raise ValueError(
                f"window={self.window} must be at most every_steps={self.every_steps}, the steps between two counts"
            )

    def build(self, context: BuildContext) -> Hooks:
        guard = DeadUnitsGuard(self)
        return Hooks(step_guards=(guard,), state={"dead_units": guard}, bindings=(guard.bind,))


class DeadUnitsGuard(StepGuard, CutState):
    """Track by layer the units that were alive since the last count.

    Also tracks the step up to which the last good count saw them alive.
    """

    def __init__(self, options: DeadUnits) -> None:
        self._options = options
        self.action = Action[options.action.upper()]
        self._good_until, self._next = 0, options.every_steps - options.window
        self._alive: dict[str, Tensor] = {}
        self._is_recording = options.window >= options.every_steps

    @property
    def rollback_steps(self) -> tuple[int, int]:
        """Return the steps that the next alarms may go back to.

        These are the steps before the last good count, or before the next count if it is good.
        """
        return self._good_until, self._next

    def bind(self, handles: TrainerHandles) -> None:
        layers = {
            name: layer for name, layer in handles.model.named_modules() if isinstance(layer, _ConvNd | nn.Linear)
        }
        for name, layer in list(layers.items())[1:]:
            units = layer.in_channels if isinstance(layer, _ConvNd) else layer.in_features
            self._alive[name] = torch.zeros(units, dtype=torch.bool, device=layer.weight.device)
            layer.register_forward_pre_hook(partial(self._record_living_units, self._alive[name]))

    @torch.no_grad()
    def _record_living_units(self, alive: Tensor, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self._is_recording and layer.training and not is_ignoring_rows():
            alive |= find_living_units(inputs[0], 1 if isinstance(layer, _ConvNd) else inputs[0].ndim - 1)

    def measure(self, timing: StepTiming) -> Tensor | None:
        steps_left = self._options.every_steps - timing.step % self._options.every_steps
        self._is_recording = steps_left <= self._options.window
        is_count_due = timing.step % self._options.every_steps == 0 and bool(self._alive)
        living_units = torch.cat(list(self._alive.values())).float() if is_count_due else None
        previous_next, self._next = self._next, timing.step + steps_left - self._options.window
        # Start again also after a count that was not made because a rollback skipped its step.
        if self._next != previous_next:
            for alive in self._alive.values():
                alive.zero_()
        return living_units

    def judge(self, stats: StepStats) -> Alarm | None:
        if not stats.sums:
            return None
        dead = sum(not count for count in stats.sums) / len(stats.sums)
        if dead <= self._options.max_dead_fraction:
            # A unit that was alive in any of these steps was alive before the first of them.
            self._good_until = max(self._good_until, stats.step - self._options.window)
            return None
        reason = f"{dead:.0%} of {len(stats.sums)} units gave zero for every example of {self._options.window} steps"
        return replace(
            self._options.make_alarm("dead_units", reason, {"dead_fraction": dead}), last_good_step=self._good_until
        )

    def make_state_after_cut(self, state: Mapping[str, Any], step: int) -> dict[str, Any]:
        # No checkpoint from before the cut is left to return to.
        return {**state, "alive": {}, "good_until": step}

    def state_dict(self) -> dict[str, Any]:
        alive = dict(self._alive)
        return {"looking": self._is_recording, "alive": alive, "good_until": self._good_until, "next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._is_recording = bool(state["looking"])
        # A rollback keeps the knowledge about a state that it keeps.
        self._good_until = max(self._good_until, int(state["good_until"]))
        self._next = int(state["next"])
        for name, alive in self._alive.items():
            if state["alive"]:
                alive.copy_(state["alive"][name])
            else:
                # A count that began before a cut is not made: the rest of its steps see fewer units alive.
                alive.fill_(self._next < self._good_until)


def find_living_units(inputs: Tensor, dim: int) -> Tensor:
    """Return which units, along `dim` of `inputs`, are not zero somewhere: bool [units]."""
    other_axes = [axis for axis in range(inputs.ndim) if axis != dim]
    return (inputs != 0).any(dim=other_axes) if other_axes else inputs != 0
