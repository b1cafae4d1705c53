"""List the results that the methods of each group must return, for the choices of plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dnntrain.protocols.result_checks import (
    Check,
    check_methods,
    returns_dataset,
    returns_iterable,
    returns_mapping,
    returns_module,
    returns_named,
    returns_optimizers,
    returns_row_per_example,
    returns_set,
    returns_tensor,
    returns_tensor_or_none,
    returns_text,
    returns_whole_number,
)

_REFUSALS: Mapping[str, Check] = {
    "needs": returns_set,
    "get_claims": returns_iterable,
    "find_refusals": returns_iterable,
    "find_layout_refusals": returns_iterable,
}
_HOOKS = returns_named("Hooks", "Hooks(…)")

#: The checks by the name of the base class and the name of the method or property.
METHOD_CHECKS: Mapping[str, Mapping[str, Check]] = {
    "Choice": _REFUSALS,
    "Method": {"build": _HOOKS},
    "DataChoice": {"build": returns_dataset},
    "ModelChoice": {"build": returns_module},
    "NormChoice": {"convert": returns_module, "convert_for_export": returns_module, "notes": returns_iterable},
    "OptimChoice": {
        "build": returns_optimizers,
        "build_hooks": _HOOKS,
        "get_parameter_options": returns_mapping,
        "format_lr_equation": returns_text,
        "list_rules_for_batch_size": returns_iterable,
    },
    "SchedChoice": {"scheduled_params": returns_iterable, "notes": returns_iterable},
    "AugmentChoice": {"describe": returns_text},
    "DistillChoice": {"notes": returns_iterable},
    "PrecisionChoice": {"build": returns_named("PrecisionPolicy", "a PrecisionPolicy")},
    "ParallelChoice": {"build": returns_named("ParallelDims", "the degrees, a ParallelDims")},
    "LaunchChoice": {
        "build": returns_whole_number,
        "make_batch_script": returns_text,
        "make_sweep_command": returns_text,
    },
    "TrackChoice": {"build": returns_named("", "a Tracker", ("start", "log_row", "close"))},
    "Task": {
        "build": returns_named("OutputSpec", "an OutputSpec"),
        "list_metrics": returns_iterable,
        "compute_losses": returns_row_per_example,
        "loss_sum": returns_tensor,
        "loss_weight": returns_whole_number,
        "get_units": returns_whole_number,
        "count_targets": returns_tensor,
        "predict": returns_tensor,
        "predict_batch": returns_tensor,
        "summarize": returns_mapping,
        "format_predictions": returns_iterable,
        "agrees": returns_tensor,
    },
    "StepGuard": {
        "measure": returns_tensor_or_none,
        "judge": returns_named("Alarm", "an Alarm or None", or_none=True),
    },
}


def check_results_of(cls: type) -> None:
    """Wrap the methods of a plug-in's class, so that their results are checked."""
    checks: dict[str, Check] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("dnntrain.protocols"):
            checks |= METHOD_CHECKS.get(base.__name__, {})
    check_methods(cls, checks, {_HOOKS: _check_slots})


def _check_slots(hooks: Any, build: Callable[..., Any]) -> Any:
    # Imported here, because the types of hooks are checked themselves.
    from dnntrain.protocols.hook_checks import check_hooks

    return check_hooks(hooks, build)
