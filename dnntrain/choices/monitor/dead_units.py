"""Units that give zero for every example, and so learn nothing (Lu et al., "Dying ReLU and initialization", 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dnntrain.choices.monitor._reactions import Reaction
from dnntrain.config.fields import Annotated, Literal, PositiveInt, Range, Refused
from dnntrain.protocols import Action, Alarm, Built, Clock, Context, Need, Parts, Seen


@dataclass(frozen=True)
class DeadUnits(Reaction):
    """Counts the inputs of convolutions and linear layers, except the first, that were zero for all examples of all ranks.

    An input is a channel of a convolution, a feature of a linear layer. Looks at the last `steps` of every `every` steps.
    `rollback` goes back to the last checkpoint from before the steps of the last count that found no more of them than `threshold`, or to
    the run's start; the steps since then are trained again, all of them, at the lower rate: which of them killed units is not known.
    """

    action: Annotated[
        Literal["log", "rollback", "stop"],
        Refused(
            ("skip",),
            "brings no unit back: they have died in steps before the one that is left out; "
            "use monitor.dead_units.action=rollback",
        ),
    ] = "log"  # log, rollback or stop: what is done about it
    recoveries: PositiveInt = 3  # rollbacks of the run before it ends as diverged
    cut: Annotated[float, Range(above=0, below=1)] = 0.5  # what a rollback multiplies the learning rate with
    threshold: Annotated[float, Range(above=0, at_most=1)] = 0.5  # share of the units that may be dead
    every: PositiveInt = 100  # steps between two counts
    steps: PositiveInt = 10  # steps that a count looks at

    needs: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps > self.every:
            raise ValueError(f"steps={self.steps} are more than there are between two counts, every={self.every}")

    def build(self, context: Context) -> Parts:
        guard = DeadUnitsGuard(self)
        return Parts(guards=(guard,), state={"dead_units": guard})


class DeadUnitsGuard:
    """Which units were alive since the last count, by layer; up to which step the last good count has seen them alive."""

    sees_gradients = False

    def __init__(self, knobs: DeadUnits) -> None:
        self._knobs = knobs
        self.action = Action[knobs.action.upper()]
        self._good_until, self._next = 0, knobs.every - knobs.steps
        self._alive: dict[str, Tensor] = {}
        self._looking = knobs.steps >= knobs.every

    @property
    def may_go_back_to(self) -> tuple[int, int]:
        """Steps that the next alarms may go back to: before the steps of the last good count, or of the next one if that is good."""
        return self._good_until, self._next

    def bind(self, built: Built) -> None:
        layers = {name: layer for name, layer in built.model.named_modules() if isinstance(layer, _ConvNd | nn.Linear)}
        for name, layer in list(layers.items())[1:]:
            units = layer.in_channels if isinstance(layer, _ConvNd) else layer.in_features
            self._alive[name] = torch.zeros(units, dtype=torch.bool, device=layer.weight.device)
            layer.register_forward_pre_hook(partial(self._look, self._alive[name]))

    @torch.no_grad()
    def _look(self, alive: Tensor, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self._looking and layer.training:
            alive |= living(inputs[0], 1 if isinstance(layer, _ConvNd) else inputs[0].ndim - 1)

    def measure(self, clock: Clock) -> Tensor | None:
        rest = self._knobs.every - clock.step % self._knobs.every
        self._looking = rest <= self._knobs.steps
        counts = clock.step % self._knobs.every == 0 and bool(self._alive)
        counted = torch.cat(list(self._alive.values())).float() if counts else None
        last, self._next = self._next, clock.step + rest - self._knobs.steps
        # Anew also after a count that was not made, for its step was left out by a rollback.
        if self._next != last:
            for alive in self._alive.values():
                alive.zero_()
        return counted

    def judge(self, seen: Seen) -> Alarm | None:
        if not seen.sums:
            return None
        dead = sum(not count for count in seen.sums) / len(seen.sums)
        if dead <= self._knobs.threshold:
            # A unit that lived in any of the steps that were looked at did so before the first of them.
            self._good_until = seen.step - self._knobs.steps
            return None
        reason = f"{dead:.0%} of {len(seen.sums)} units gave zero for every example of {self._knobs.steps} steps"
        return replace(self._knobs.alarm("dead_units", reason, {"dead_fraction": dead}), good_until=self._good_until)

    def state_dict(self) -> dict[str, Any]:
        alive = dict(self._alive)
        return {"looking": self._looking, "alive": alive, "good_until": self._good_until, "next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._looking = bool(state["looking"])
        # A rollback does not undo what is known of a state that it keeps.
        self._good_until = max(self._good_until, int(state["good_until"]))
        self._next = int(state["next"])
        for name, alive in self._alive.items():
            alive.copy_(state["alive"][name])


def living(inputs: Tensor, dim: int) -> Tensor:
    """bool [units]: which units, along `dim` of `inputs`, are not zero somewhere."""
    rest = [axis for axis in range(inputs.ndim) if axis != dim]
    return (inputs != 0).any(dim=rest) if rest else inputs != 0
