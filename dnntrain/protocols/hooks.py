"""The slots that a method can fill, and the rules that merge several methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from dnntrain.protocols.context import TrainerHandles
from dnntrain.protocols.hook_types import (
    AfterStepHook,
    BatchTransform,
    EvalWeights,
    FeatureTap,
    GradientTransform,
    ImageTransform,
    LossTerm,
    MaskTransform,
    MemoryUse,
    MetricCallback,
    ModelTransform,
    ScheduledValue,
    Stateful,
    WeightInit,
)
from dnntrain.protocols.reshaping import Reshaping
from dnntrain.protocols.step import OptimizerStep
from dnntrain.protocols.step_guard import StepGuard

if TYPE_CHECKING:
    from torch.nn import Module

    from dnntrain.protocols.federation import Federation


def _concat(values: Sequence[Sequence[Any]], names: Sequence[str]) -> tuple[Any, ...]:
    """Concatenate the items in the order of the methods."""
    return tuple(item for value in values for item in value)


def _concat_by_stage(values: Sequence[Sequence[Any]], names: Sequence[str]) -> tuple[Any, ...]:
    """Concatenate the items by stage, and within a stage in the order of the methods."""
    return tuple(sorted(_concat(values, names), key=lambda item: item.stage))


def _concat_eval_weights(values: Sequence[Sequence[EvalWeights]], names: Sequence[str]) -> tuple[EvalWeights, ...]:
    """Concatenate the items, weights first.

    Raises ValueError if two methods replace the same kind.
    """
    for kind in ("weights", "statistics"):
        replacing = [any(item.replaces == kind for item in value) for value in values]
        _pick_single(replacing, names, f"replace the {kind} that are evaluated")
    return tuple(sorted(_concat(values, names), key=lambda item: item.replaces != "weights"))


def _multiply(values: Sequence[float], names: Sequence[str]) -> float:
    return math.prod(values)


def _only_one(action: str, default: Any) -> Callable[[Sequence[Any], Sequence[str]], Any]:
    """Return the rule of a slot that one method may fill: its value, or `default`."""

    def pick(values: Sequence[Any], names: Sequence[str]) -> Any:
        set_values = [value if value != default else None for value in values]
        picked = _pick_single(set_values, names, action)
        return default if picked is None else picked

    return pick


def _pick_single(values: Sequence[Any], names: Sequence[str], action: str) -> Any:
    """Return the only one of `values` that is set, or None.

    Raises ValueError, which says that the methods both `action`, if several values are set.
    """
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


#: The rules that merge a slot of several methods, as metadata of the fields.
_ALL = {"merge": _concat}
_BY_STAGE = {"merge": _concat_by_stage}
_WEIGHTS_FIRST = {"merge": _concat_eval_weights}
_PRODUCT = {"merge": _multiply}
_BY_NAME = {"merge": _merge_states}
_ONE_STEP = {"merge": _only_one("take the optimizer step", None)}
_ONE_RESHAPING = {"merge": _only_one("cut the network", None)}
_ONE_FEDERATION = {"merge": _only_one("train clients", None)}
_ONE_SMOOTHING = {"merge": _only_one("smooth the targets", 0.0)}
_ONE_CROP = {"merge": _only_one("crop images", 0)}
_ONE_FLIP = {"merge": _only_one("mirror images", 0.0)}
_ONE_REPETITION = {"merge": _only_one("repeat the examples of a step", 1)}


@dataclass(frozen=True)
class Hooks:
    """The objects that a method gives to the trainer; every slot is empty by default.

    `hook_types.py` documents the types of the other slots.

    mask_transforms   for each of `image_transforms` the change of masks that belongs to it; without them
                      the method does not support masks
    label_smoothing   probability mass that the loss spreads over all classes; one method may set it
    main_loss_weight  weight of the task's loss; the weights of several methods are multiplied
    crop_padding      width in pixels of a border of zeros, from which the image is cropped at random
    flip_probability  probability of mirroring an image left to right
    augment_copies    copies of each example in a step, augmented independently; the number of
                      examples of a step does not change
    export_metadata   functions whose results are written into config.json beside the exported
                      weights; they see the model before `export_transforms` change it
    memory_use        functions from the number of ranks over which weights are sharded to the memory
                      of the method, for the plan
    reshaping         cuts of the network between steps; one method may make them
    federation        clients that train apart between two states of a server; a step is a round
    mask_steps        steps after which the method sets weights to zero: each has a row of event "masked",
                      and an evaluation from the last one on may be the best one
    bindings          functions that are called once with the built trainer's handles, in the order
                      of the methods
    state             state that is saved in checkpoints, by name
    """

    model_transforms: tuple[ModelTransform, ...] = field(default=(), metadata=_BY_STAGE)
    weight_inits: tuple[WeightInit, ...] = field(default=(), metadata=_ALL)
    image_transforms: tuple[ImageTransform, ...] = field(default=(), metadata=_ALL)
    mask_transforms: tuple[MaskTransform, ...] = field(default=(), metadata=_ALL)
    batch_transforms: tuple[BatchTransform, ...] = field(default=(), metadata=_BY_STAGE)
    loss_terms: tuple[LossTerm, ...] = field(default=(), metadata=_ALL)
    gradient_transforms: tuple[GradientTransform, ...] = field(default=(), metadata=_BY_STAGE)
    optimizer_step: OptimizerStep | None = field(default=None, metadata=_ONE_STEP)
    scheduled_values: tuple[ScheduledValue, ...] = field(default=(), metadata=_ALL)
    after_step_hooks: tuple[AfterStepHook, ...] = field(default=(), metadata=_ALL)
    eval_weights: tuple[EvalWeights, ...] = field(default=(), metadata=_WEIGHTS_FIRST)
    metric_callbacks: tuple[MetricCallback, ...] = field(default=(), metadata=_ALL)
    step_guards: tuple[StepGuard, ...] = field(default=(), metadata=_ALL)
    export_transforms: tuple[Callable[[Module], Module], ...] = field(default=(), metadata=_ALL)
    export_metadata: tuple[Callable[[Module], Mapping[str, Any]], ...] = field(default=(), metadata=_ALL)
    feature_taps: tuple[FeatureTap, ...] = field(default=(), metadata=_ALL)
    memory_use: tuple[Callable[[int], MemoryUse], ...] = field(default=(), metadata=_ALL)
    reshaping: Reshaping | None = field(default=None, metadata=_ONE_RESHAPING)
    federation: Federation | None = field(default=None, metadata=_ONE_FEDERATION)
    mask_steps: tuple[int, ...] = field(default=(), metadata=_ALL)
    bindings: tuple[Callable[[TrainerHandles], None], ...] = field(default=(), metadata=_ALL)
    label_smoothing: float = field(default=0.0, metadata=_ONE_SMOOTHING)
    main_loss_weight: float = field(default=1.0, metadata=_PRODUCT)
    crop_padding: int = field(default=0, metadata=_ONE_CROP)
    flip_probability: float = field(default=0.0, metadata=_ONE_FLIP)
    augment_copies: int = field(default=1, metadata=_ONE_REPETITION)
    state: Mapping[str, Stateful] = field(default_factory=dict, metadata=_BY_NAME)

    @property
    def last_change_step(self) -> int:
        """Return the number of steps after which no method changes the network any more."""
        return max((*self.mask_steps, *(() if self.reshaping is None else self.reshaping.steps)), default=0)

    @classmethod
    def merge(cls, all_hooks: Iterable[Hooks], names: Sequence[str] = ()) -> Hooks:
        """Merge each slot of `all_hooks` by the rule of the slot.

        `names` are the settings that give each of `all_hooks`. Raises ValueError, which names both
        settings, if two fill a slot that only one may fill.
        """
        all_hooks = list(all_hooks)
        names = names or [f"method {number}" for number in range(1, len(all_hooks) + 1)]
        merged = {
            slot.name: slot.metadata["merge"]([vars(hooks)[slot.name] for hooks in all_hooks], names)
            for slot in fields(cls)
        }
        return cls(**merged)
