"""A method, and all that it gives the trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

from dnntrain.protocols.context import BuildContext
from dnntrain.protocols.hook_types import (
    AfterStepHook,
    BatchTransform,
    EvalWeights,
    FeatureTap,
    GradientTransform,
    ImageTransform,
    LayoutRequirement,
    LossTerm,
    MemoryUse,
    MetricCallback,
    ModelTransform,
    ScheduledValue,
    Stateful,
    WeightInit,
)
from dnntrain.protocols.step import OptimizerStep
from dnntrain.protocols.step_guard import StepGuard
from dnntrain.protocols.task import TaskFeature

if TYPE_CHECKING:
    from torch.nn import Module


@dataclass(frozen=True)
class Hooks:
    """What a method gives to the trainer; every slot is empty by default. `task_weight`: of the task's loss; several multiply.

    `repeats`: copies of each example in a step, augmented apart; the step has as many examples as without.
    `card`: what is written beside the exported weights, in config.json, found before `export` changes the model.
    `held`: what the plan's memory counts besides the model, given the number of ranks among which weights lie in parts.
    """

    model_transforms: tuple[ModelTransform, ...] = ()
    weight_inits: tuple[WeightInit, ...] = ()
    image_transforms: tuple[ImageTransform, ...] = ()
    batch_transforms: tuple[BatchTransform, ...] = ()
    loss_terms: tuple[LossTerm, ...] = ()
    gradient_transforms: tuple[GradientTransform, ...] = ()
    optimizer_step: OptimizerStep | None = None
    scheduled_values: tuple[ScheduledValue, ...] = ()
    after_step_hooks: tuple[AfterStepHook, ...] = ()
    eval_weights: tuple[EvalWeights, ...] = ()
    metric_callbacks: tuple[MetricCallback, ...] = ()
    step_guards: tuple[StepGuard, ...] = ()
    export_transforms: tuple[Callable[[Module], Module], ...] = ()
    export_metadata: tuple[Callable[[Module], Mapping[str, Any]], ...] = ()
    feature_taps: tuple[FeatureTap, ...] = ()
    memory_use: tuple[Callable[[int], MemoryUse], ...] = ()
    label_smoothing: float = 0.0
    main_loss_weight: float = 1.0
    augment_copies: int = 1
    state: Mapping[str, Stateful] = field(default_factory=dict)

    @classmethod
    def merge(cls, all_hooks: Iterable[Hooks], names: Sequence[str] = ()) -> Hooks:
        """All slots of all `parts`, those with stages in the order of the stages. `names`: the setting that gives each.

        Raises ValueError, with both names, where two fill one single slot.
        """
        all_hooks = list(all_hooks)
        names = names or [f"method {number}" for number in range(1, len(all_hooks) + 1)]
        merged: dict[str, Any] = {}
        for slot in fields(cls):
            values = [getattr(hooks, slot.name) for hooks in all_hooks]
            if slot.name == "optimizer_step":
                merged["optimizer_step"] = _pick_single(values, names, "take the optimizer step")
            elif slot.name == "main_loss_weight":
                merged["main_loss_weight"] = math.prod(values)
            elif slot.name == "label_smoothing":
                merged["label_smoothing"] = _pick_single(values, names, "smooth the targets") or 0.0
            elif slot.name == "augment_copies":
                copy_counts = [value if value > 1 else 0 for value in values]
                merged["augment_copies"] = _pick_single(copy_counts, names, "repeat the examples of a step") or 1
            elif slot.name == "state":
                merged["state"] = _merge_states(values, names)
            else:
                flat = [item for value in values for item in value]
                merged[slot.name] = tuple(sorted(flat, key=lambda item: getattr(item, "stage", 0)))
        for replaced_kind in ("weights", "statistics"):
            gives_kind = [
                any(weights.replaces == replaced_kind for weights in hooks.eval_weights) for hooks in all_hooks
            ]
            _pick_single(gives_kind, names, f"give other {replaced_kind} to evaluate")
        merged["eval_weights"] = tuple(
            sorted(merged["eval_weights"], key=lambda weights: weights.replaces != "weights")
        )
        return cls(**merged)


class Method(Protocol):
    """A choice of a method group: a frozen dataclass of typed knobs.

    One that cannot do with every other has `check_with(parts)`, which is given the parts of all and raises ConfigError.
    """

    @property
    def needs(self) -> frozenset[LayoutRequirement | TaskFeature]: ...

    def build(self, context: BuildContext) -> Hooks: ...


def _pick_single(values: Sequence[Any], names: Sequence[str], action: str) -> Any:
    """The one of `values` that is set, or None. Raises ValueError where several are: their methods all do what `does` says."""
    set_values = [(name, value) for name, value in zip(names, values, strict=True) if value]
    if len(set_values) > 1:
        raise ValueError(f"{' and '.join(name for name, _ in set_values)} both {action}; keep one of them")
    return set_values[0][1] if set_values else None


def _merge_states(states: Sequence[Mapping[str, Stateful]], names: Sequence[str]) -> dict[str, Stateful]:
    merged: dict[str, Stateful] = {}
    owners: dict[str, str] = {}
    for owner, state in zip(names, states, strict=True):
        for name, stateful in state.items():
            if name in merged:
                raise ValueError(f"{owners[name]} and {owner} both keep a state named {name!r}; keep one of them")
            merged[name], owners[name] = stateful, owner
    return merged
