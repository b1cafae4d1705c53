"""Set scheduled values in optimizers and model before each step, and read their current values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from dnntrain.errors import ConfigError
from dnntrain.protocols import ScheduledParam, ScheduledValue, StepInfo

#: How to give a run a value that a schedule can multiply.
_REMEDIES = {
    ScheduledParam.MOMENTUM: "choose an optimizer that has it, as in optim=sgd optim.momentum=0.9",
    ScheduledParam.WEIGHT_DECAY: "set optim.weight_decay, without optim.decoupled_weight_decay, which is constant",
    ScheduledParam.DROP_RATE: "add reg=[dropout] to a network with dropout, or set model.dropout",
}


def bind_scheduled_values(
    scheduled_values: Sequence[ScheduledValue],
    optimizers: Sequence[torch.optim.Optimizer],
    model: nn.Module,
    must_find: bool = True,
) -> list[Callable[[StepInfo], None]]:
    """Return one setter for each scheduled target.

    Factors of several learning-rate schedules are multiplied. The batch size is in the plan, and the
    sequence length is cut from the batches (`training/seq_len.py`). Raises ConfigError if a schedule
    has no value to set or multiply, unless the model is only a stage of one.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    setters: list[Callable[[StepInfo], None]] = []
    factors = [
        scheduled_value.value
        for scheduled_value in scheduled_values
        if scheduled_value.target is ScheduledParam.LEARNING_RATE
    ]
    if factors:
        setters.append(partial(_set_learning_rate, factors, [(group, group["lr"]) for group in groups]))
    for scheduled_value in scheduled_values:
        if not isinstance(scheduled_value.target, ScheduledParam):
            setters.append(partial(_set_scaled_value, [(scheduled_value.target(model), None)], scheduled_value.value))
        elif not scheduled_value.target.is_in_every_run:
            setters.append(
                partial(
                    _set_scaled_value,
                    _find_setters(scheduled_value.target, groups, model, scheduled_value.is_relative, must_find),
                    scheduled_value.value,
                )
            )
    return setters


def _set_learning_rate(
    factors: Sequence[Callable[[StepInfo], float]], groups: Sequence[tuple[dict[str, Any], float]], step_info: StepInfo
) -> None:
    factor = math.prod([value(step_info) for value in factors])
    for group, base in groups:
        group["lr"] = base * factor


def _set_scaled_value(
    setters: Sequence[tuple[Callable[[float], None], float | None]],
    value: Callable[[StepInfo], float],
    step_info: StepInfo,
) -> None:
    number = value(step_info)
    for setter, base in setters:
        setter(number if base is None else base * number)


def _find_setters(
    target: ScheduledParam, groups: Sequence[dict[str, Any]], model: nn.Module, relative: bool, must_find: bool
) -> list[tuple[Callable[[float], None], float | None]]:
    """Return (setter, base) for everything that `target` names.

    The base is None if the schedule gives the value itself.
    """
    setters: list[tuple[Callable[[float], None], float]]
    if target is ScheduledParam.MOMENTUM:
        setters = [(partial(_set_momentum, group), get_momentum(group)) for group in groups if get_momentum(group)]
    elif target is ScheduledParam.WEIGHT_DECAY:
        decay_groups = [group for group in groups if group.get("weight_decay")]
        setters = [(partial(group.__setitem__, "weight_decay"), group["weight_decay"]) for group in decay_groups]
    else:
        setters = [
            (partial(setattr, module, name), float(getattr(module, name))) for module, name in find_dropouts(model)
        ]
    if must_find and (not setters or (relative and not any(base for _, base in setters))):
        raise ConfigError(
            f"the {target.value.replace('_', ' ')} is scheduled, but nothing in this run has one above 0",
            f"{_REMEDIES[target]}, or leave {target.value} out of sched.applies_to"
            + (" (with sched=one_cycle: sched.cycle_momentum=false)" if target is ScheduledParam.MOMENTUM else ""),
        )
    return [(setter, base if relative else None) for setter, base in setters]


def get_momentum(group: Mapping[str, Any]) -> float:
    """Return the momentum of a parameter group, or the first of Adam's betas; 0 if it has none."""
    return float(group["betas"][0]) if "betas" in group else float(group.get("momentum", 0.0))


def _set_momentum(group: dict[str, Any], momentum: float) -> None:
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    else:
        group["momentum"] = momentum


def find_dropouts(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return every dropout module of the model, and the attribute with its rate.

    Modules that drop residual branches are not included.
    """
    return [
        (module, "p" if isinstance(module, _DropoutNd) else "dropout")
        for module in model.modules()
        if isinstance(module, _DropoutNd | nn.MultiheadAttention)
    ]


def get_learning_rate(optimizers: Sequence[torch.optim.Optimizer]) -> float:
    """Return the current learning rate, without the factors of parameter groups."""
    group = optimizers[0].param_groups[0]
    return float(group["lr"]) / float(group["lr_scale"])


def make_scheduled_reader(
    values: Sequence[ScheduledValue], optimizers: Sequence[torch.optim.Optimizer], model: nn.Module
) -> Callable[[], dict[str, float]]:
    """Return a reader of the scheduled momentum, weight decay and drop rate, by name.

    Each is read from the first place that has one.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    readers: dict[ScheduledParam, Iterable[Callable[[], float]]] = {
        ScheduledParam.MOMENTUM: (partial(get_momentum, group) for group in groups if get_momentum(group)),
        ScheduledParam.WEIGHT_DECAY: (
            partial(group.__getitem__, "weight_decay") for group in groups if group.get("weight_decay")
        ),
        ScheduledParam.DROP_RATE: (
            partial(getattr, module, name) for module, name in find_dropouts(model) if getattr(module, name)
        ),
    }
    targets = {control.target for control in values if isinstance(control.target, ScheduledParam)}
    first_readers = {
        target.value: next(iter(target_readers), None)
        for target, target_readers in readers.items()
        if target in targets
    }
    return lambda: {name: float(read()) for name, read in first_readers.items() if read is not None}
