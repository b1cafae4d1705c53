"""Units that give zero for every example, and so learn nothing (Lu et al., "Dying ReLU and initialization", 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dnntrain.config.fields import Annotated, Literal, PositiveInt, Range
from dnntrain.protocols import Action, Alarm, Built, Clock, Context, Need, Parts, Seen


@dataclass(frozen=True)
class DeadUnits:
    """Counts the inputs of convolutions and linear layers, except the first, that were zero for all examples of all ranks.

    An input is a channel of a convolution, a feature of a linear layer. Looks at the last `steps` of every `every` steps.
    """

    action: Literal["log", "stop"] = "log"  # log or stop: what is done about it
    threshold: Annotated[float, Range(above=0, at_most=1)] = 0.5  # share of the units that may be dead
    every: PositiveInt = 100  # steps between two counts
    steps: PositiveInt = 10  # steps that a count looks at

    needs: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES})

    def __post_init__(self) -> None:
        if self.steps > self.every:
            raise ValueError(f"steps={self.steps} are more than there are between two counts, every={self.every}")

    def build(self, context: Context) -> Parts:
        guard = DeadUnitsGuard(self)
        return Parts(guards=(guard,), state={"dead_units": guard})


class DeadUnitsGuard:
    """Which units were alive since the last count, by layer."""

    sees_gradients = False

    def __init__(self, knobs: DeadUnits) -> None:
        self._knobs = knobs
        self.action = Action[knobs.action.upper()]
        self._alive: dict[str, Tensor] = {}
        self._looking = knobs.steps >= knobs.every

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
        if clock.step % self._knobs.every or not self._alive:
            return None
        counted = torch.cat(list(self._alive.values())).float()
        for alive in self._alive.values():
            alive.zero_()
        return counted

    def judge(self, seen: Seen) -> Alarm | None:
        if not seen.sums:
            return None
        dead = sum(not count for count in seen.sums) / len(seen.sums)
        if dead <= self._knobs.threshold:
            return None
        reason = f"{dead:.0%} of {len(seen.sums)} units gave zero for every example of {self._knobs.steps} steps"
        return Alarm("dead_units", reason, self.action, {"dead_fraction": dead})

    def state_dict(self) -> dict[str, Any]:
        return {"looking": self._looking, "alive": dict(self._alive)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._looking = bool(state["looking"])
        for name, alive in self._alive.items():
            alive.copy_(state["alive"][name])


def living(inputs: Tensor, dim: int) -> Tensor:
    """bool [units]: which units, along `dim` of `inputs`, are not zero somewhere."""
    rest = [axis for axis in range(inputs.ndim) if axis != dim]
    return (inputs != 0).any(dim=rest) if rest else inputs != 0
