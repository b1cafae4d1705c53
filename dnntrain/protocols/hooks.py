"""A method, and all that it gives the trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

from dnntrain.protocols.context import Context
from dnntrain.protocols.hook_types import (
    AfterStep,
    BatchTransform,
    Capture,
    Control,
    Decision,
    FirstWeights,
    GradientTransform,
    Held,
    LossTerm,
    ModelTransform,
    Need,
    PixelTransform,
    Stateful,
    View,
)
from dnntrain.protocols.step import Update
from dnntrain.protocols.step_guard import Guard

if TYPE_CHECKING:
    from torch.nn import Module


@dataclass(frozen=True)
class Parts:
    """What a method gives to the trainer; every slot is empty by default. `task_weight`: of the cross-entropy; several multiply.

    `repeats`: copies of each example in a step, augmented apart; the step has as many examples as without.
    `card`: what is written beside the exported weights, in config.json, found before `export` changes the model.
    `held`: what the plan's memory counts besides the model, given the number of ranks among which weights lie in parts.
    """

    model: tuple[ModelTransform, ...] = ()
    first_weights: tuple[FirstWeights, ...] = ()
    pixels: tuple[PixelTransform, ...] = ()
    batch: tuple[BatchTransform, ...] = ()
    loss: tuple[LossTerm, ...] = ()
    gradient: tuple[GradientTransform, ...] = ()
    update: Update | None = None
    controls: tuple[Control, ...] = ()
    after_step: tuple[AfterStep, ...] = ()
    evaluation: tuple[View, ...] = ()
    decisions: tuple[Decision, ...] = ()
    guards: tuple[Guard, ...] = ()
    export: tuple[Callable[[Module], Module], ...] = ()
    card: tuple[Callable[[Module], Mapping[str, Any]], ...] = ()
    captures: tuple[Capture, ...] = ()
    held: tuple[Callable[[int], Held], ...] = ()
    label_smoothing: float = 0.0
    task_weight: float = 1.0
    repeats: int = 1
    state: Mapping[str, Stateful] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Iterable[Parts], names: Sequence[str] = ()) -> Parts:
        """All slots of all `parts`, those with stages in the order of the stages. `names`: the setting that gives each.

        Raises ValueError, with both names, where two fill one single slot.
        """
        parts = list(parts)
        names = names or [f"method {number}" for number in range(1, len(parts) + 1)]
        joined: dict[str, Any] = {}
        for slot in fields(cls):
            values = [getattr(part, slot.name) for part in parts]
            if slot.name == "update":
                joined["update"] = _only(values, names, "take the optimizer step")
            elif slot.name == "task_weight":
                joined["task_weight"] = math.prod(values)
            elif slot.name == "label_smoothing":
                joined["label_smoothing"] = _only(values, names, "smooth the targets") or 0.0
            elif slot.name == "repeats":
                several = [value if value > 1 else 0 for value in values]
                joined["repeats"] = _only(several, names, "repeat the examples of a step") or 1
            elif slot.name == "state":
                joined["state"] = _united(values, names)
            else:
                flat = [item for value in values for item in value]
                joined[slot.name] = tuple(sorted(flat, key=lambda item: getattr(item, "stage", 0)))
        for what in ("weights", "statistics"):
            views = [any(view.replaces == what for view in part.evaluation) for part in parts]
            _only(views, names, f"give other {what} to evaluate")
        joined["evaluation"] = tuple(sorted(joined["evaluation"], key=lambda view: view.replaces != "weights"))
        return cls(**joined)


class Method(Protocol):
    """A choice of a method group: a frozen dataclass of typed knobs.

    One that cannot do with every other has `check_with(parts)`, which is given the parts of all and raises ConfigError.
    """

    @property
    def needs(self) -> frozenset[Need]: ...

    def build(self, context: Context) -> Parts: ...


def _only(values: Sequence[Any], names: Sequence[str], does: str) -> Any:
    """The one of `values` that is set, or None. Raises ValueError where several are: their methods all do what `does` says."""
    found = [(name, value) for name, value in zip(names, values, strict=True) if value]
    if len(found) > 1:
        raise ValueError(f"{' and '.join(name for name, _ in found)} both {does}; keep one of them")
    return found[0][1] if found else None


def _united(states: Sequence[Mapping[str, Stateful]], names: Sequence[str]) -> dict[str, Stateful]:
    united: dict[str, Stateful] = {}
    owners: dict[str, str] = {}
    for owner, state in zip(names, states, strict=True):
        for name, stateful in state.items():
            if name in united:
                raise ValueError(f"{owners[name]} and {owner} both keep a state named {name!r}; keep one of them")
            united[name], owners[name] = stateful, owner
    return united
