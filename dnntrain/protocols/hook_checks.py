"""Check the hooks that a plug-in's method returns, and wrap the functions in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from dnntrain.errors import PluginError
from dnntrain.protocols.hook_types import (
    Adjustment,
    BatchTransform,
    EvalWeights,
    FeatureTap,
    GradientTransform,
    LossTerm,
    MemoryUse,
    ModelTransform,
    ScheduledValue,
    Stateful,
    StopTraining,
)
from dnntrain.protocols.hooks import Hooks
from dnntrain.protocols.result_checks import (
    Check,
    CheckedFunction,
    returns,
    returns_image_bytes,
    returns_mapping,
    returns_mapping_or_none,
    returns_module,
    returns_number,
    returns_row_per_example,
)
from dnntrain.protocols.step import Batch, StepLoss
from dnntrain.protocols.step_guard import StepGuard
from dnntrain.utils.user_code import describe_value, make_result_error

#: The type of the items of a slot; slots without a type hold functions.
_ITEM_TYPES: Mapping[str, type] = {
    "model_transforms": ModelTransform,
    "batch_transforms": BatchTransform,
    "loss_terms": LossTerm,
    "gradient_transforms": GradientTransform,
    "scheduled_values": ScheduledValue,
    "eval_weights": EvalWeights,
    "step_guards": StepGuard,
    "feature_taps": FeatureTap,
}

#: Slots of functions, with the check of their results; None: the results are not used.
_FUNCTIONS: Mapping[str, Check | None] = {
    "weight_inits": None,
    "image_transforms": returns_image_bytes,
    "mask_transforms": returns_image_bytes,
    "after_step_hooks": None,
    "metric_callbacks": returns((StopTraining, Adjustment, type(None)), "StopTraining, Adjustment or None"),
    "export_transforms": returns_module,
    "export_metadata": returns_mapping,
    "memory_use": returns(MemoryUse, "MemoryUse"),
    "bindings": None,
}

#: The field of an item that is a function, and the check of its results.
_ITEM_FUNCTIONS: Mapping[str, tuple[str, Check]] = {
    "model_transforms": ("apply", returns_module),
    "batch_transforms": ("apply", returns(Batch, "a Batch")),
    "loss_terms": ("apply", returns_row_per_example),
    "gradient_transforms": ("apply", returns_mapping_or_none),
    "scheduled_values": ("value", returns_number),
}

_NUMBERS = ("label_smoothing", "main_loss_weight", "crop_padding", "flip_probability", "augment_copies")


def check_hooks(hooks: Hooks, build: Callable[..., Any]) -> Hooks:
    """Return the hooks that the user's method `build` returned, with functions whose results are checked.

    Raises PluginError, which names the slot, if a slot holds a wrong value.
    """
    values: dict[str, Any] = dict(vars(hooks))
    for slot, kind in _ITEM_TYPES.items():
        values[slot] = tuple(_check_item(build, slot, item, kind) for item in _check_tuple(build, slot, values))
    for slot, check in _FUNCTIONS.items():
        functions = _check_tuple(build, slot, values)
        values[slot] = tuple(_check_function(build, slot, function, check) for function in functions)
    if values["optimizer_step"] is not None:
        check_loss = returns(StepLoss, "the StepLoss of compute_gradients()")
        values["optimizer_step"] = _check_function(build, "optimizer_step", values["optimizer_step"], check_loss)
    for slot in _NUMBERS:
        if returns_number(values[slot]):
            raise _make_error(build, slot, "a number", values[slot])
    states = values["state"]
    if not isinstance(states, Mapping) or not all(isinstance(state, Stateful) for state in states.values()):
        raise _make_error(build, "state", "a mapping of names to objects with state_dict and load_state_dict", states)
    return Hooks(**values)


def check_swap_in(context: object, class_name: str) -> None:
    """Check that `EvalWeights.swap_in` returned a context. Raises PluginError if not."""
    if not isinstance(context, AbstractContextManager):
        raise PluginError(
            f"{class_name}.swap_in() must return a context, not {describe_value(context)}",
            "decorate it with @contextlib.contextmanager, and yield once",
        )


def _check_tuple(build: Callable[..., Any], slot: str, values: Mapping[str, Any]) -> tuple[Any, ...]:
    value = values[slot]
    if not isinstance(value, (tuple, list)):
        needed = f"a tuple of {_ITEM_TYPES[slot].__name__}" if slot in _ITEM_TYPES else "a tuple of functions"
        raise _make_error(build, slot, needed, value)
    return tuple(value)


def _check_item(build: Callable[..., Any], slot: str, item: Any, kind: type) -> Any:
    if not isinstance(item, kind):
        raise _make_error(build, slot, f"a tuple of {kind.__name__}", (item,))
    if slot not in _ITEM_FUNCTIONS:
        return item
    name, check = _ITEM_FUNCTIONS[slot]
    checked_item: Any = item
    return replace(checked_item, **{name: _check_function(build, f"{slot}: {name}", vars(item)[name], check)})


def _check_function(build: Callable[..., Any], slot: str, function: Any, check: Check | None) -> Callable[..., Any]:
    if not callable(function):
        raise _make_error(build, slot, "a function", function)
    checked: Callable[..., Any] = function if check is None else CheckedFunction(function, check)
    return checked


def _make_error(build: Callable[..., Any], slot: str, needed: str, value: Any) -> PluginError:
    return make_result_error(f"returned Hooks whose {slot} must be {needed}, not {describe_value(value)}", build)
