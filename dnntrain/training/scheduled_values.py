"""Controls → setters: what a schedule sets before each step in optimizers and model, and the values that stand there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from dnntrain.errors import ConfigError
from dnntrain.protocols import Control, Moment, Target

#: What gives a run a value that a schedule may multiply.
_SETS = {
    Target.MOMENTUM: "choose an optimizer that has it, as in optim=sgd optim.momentum=0.9",
    Target.WEIGHT_DECAY: "set optim.weight_decay",
    Target.DROP_RATE: "add reg=[dropout] to a network with dropout, or set model.dropout",
}


def bind_controls(
    controls: Sequence[Control],
    optimizers: Sequence[torch.optim.Optimizer],
    model: nn.Module,
    must_find: bool = True,
) -> list[Callable[[Moment], None]]:
    """One setter for each target that is controlled. Factors of several learning-rate controls are multiplied; the batch size stands in
    the plan.

    Raises ConfigError where a control finds nothing that it could set or multiply, unless the model is only a part of one.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    setters: list[Callable[[Moment], None]] = []
    factors = [control.value for control in controls if control.target is Target.LEARNING_RATE]
    if factors:
        setters.append(partial(_set_learning_rate, factors, [(group, group["lr"]) for group in groups]))
    for control in controls:
        if not isinstance(control.target, Target):
            setters.append(partial(_set, [(control.target(model), None)], control.value))
        elif control.target not in (Target.LEARNING_RATE, Target.BATCH_SIZE):
            setters.append(
                partial(_set, _places(control.target, groups, model, control.relative, must_find), control.value)
            )
    return setters


def _set_learning_rate(
    factors: Sequence[Callable[[Moment], float]], groups: Sequence[tuple[dict[str, Any], float]], moment: Moment
) -> None:
    factor = math.prod([value(moment) for value in factors])
    for group, base in groups:
        group["lr"] = base * factor


def _set(
    places: Sequence[tuple[Callable[[float], None], float | None]], value: Callable[[Moment], float], moment: Moment
) -> None:
    number = value(moment)
    for setter, base in places:
        setter(number if base is None else base * number)


def _places(
    target: Target, groups: Sequence[dict[str, Any]], model: nn.Module, relative: bool, must_find: bool
) -> list[tuple[Callable[[float], None], float | None]]:
    """(setter, base) of everything that `target` names; the base is None where the control's value is the value itself."""
    found: list[tuple[Callable[[float], None], float]]
    if target is Target.MOMENTUM:
        found = [(partial(_set_momentum, group), momentum_of(group)) for group in groups if momentum_of(group)]
    elif target is Target.WEIGHT_DECAY:
        decaying = [group for group in groups if group.get("weight_decay")]
        found = [(partial(group.__setitem__, "weight_decay"), group["weight_decay"]) for group in decaying]
    else:
        found = [(partial(setattr, module, name), float(getattr(module, name))) for module, name in dropouts(model)]
    if must_find and (not found or (relative and not any(base for _, base in found))):
        raise ConfigError(
            f"the {target.value.replace('_', ' ')} is scheduled, but nothing in this run has one above 0",
            f"{_SETS[target]}, or leave {target.value} out of sched.param"
            + (" (with sched=one_cycle: sched.cycle_momentum=false)" if target is Target.MOMENTUM else ""),
        )
    return [(setter, base if relative else None) for setter, base in found]


def momentum_of(group: Mapping[str, Any]) -> float:
    """The momentum of a parameter group, or the first of Adam's betas; 0 where it has none."""
    return float(group["betas"][0]) if "betas" in group else float(group.get("momentum", 0.0))


def _set_momentum(group: dict[str, Any], momentum: float) -> None:
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    else:
        group["momentum"] = momentum


def dropouts(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Every module of the model that drops numbers, and the attribute with its rate; not those that drop residual branches."""
    return [
        (module, "p" if isinstance(module, _DropoutNd) else "dropout")
        for module in model.modules()
        if isinstance(module, _DropoutNd | nn.MultiheadAttention)
    ]


def learning_rate(optimizers: Sequence[torch.optim.Optimizer]) -> float:
    """The learning rate now, before what a group's own factor makes of it."""
    group = optimizers[0].param_groups[0]
    return float(group["lr"]) / float(group["lr_scale"])


def scheduled_values(
    controls: Sequence[Control], optimizers: Sequence[torch.optim.Optimizer], model: nn.Module
) -> Callable[[], dict[str, float]]:
    """Reads momentum, weight decay and drop rate as they are now, by name, those that are controlled: of the first place that has one."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    places: dict[Target, Iterable[Callable[[], float]]] = {
        Target.MOMENTUM: (partial(momentum_of, group) for group in groups if momentum_of(group)),
        Target.WEIGHT_DECAY: (
            partial(group.__getitem__, "weight_decay") for group in groups if group.get("weight_decay")
        ),
        Target.DROP_RATE: (partial(getattr, module, name) for module, name in dropouts(model) if getattr(module, name)),
    }
    named = {control.target for control in controls if isinstance(control.target, Target)}
    firsts = {target.value: next(iter(found), None) for target, found in places.items() if target in named}
    return lambda: {name: float(read()) for name, read in firsts.items() if read is not None}
