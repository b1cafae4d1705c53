"""Compute the tokens of the examples of each step: for `sched.applies_to=seq_len`.

Short windows first make the first steps cheap and their gradients less noisy (Li et al., "The
stability-efficiency dilemma", 2022, which cuts windows in the same way).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dnntrain.errors import ConfigError
from dnntrain.protocols import ModelSpec, ScheduledParam, ScheduledValue, StepInfo

#: Lengths are multiples of this number, which suits the kernels.
LENGTH_MULTIPLE = 8


def compute_seq_len(factor: float, context: int) -> int:
    """Return `context` times `factor`, rounded to a multiple of 8, at least 8 and at most `context`."""
    return min(context, max(LENGTH_MULTIPLE, LENGTH_MULTIPLE * round(context * min(factor, 1.0) / LENGTH_MULTIPLE)))


def find_seq_len_factor(scheduled_values: Sequence[ScheduledValue]) -> Callable[[StepInfo], float] | None:
    """Return the factor on the length, or None if the length is not scheduled."""
    return next((control.value for control in scheduled_values if control.target is ScheduledParam.SEQ_LEN), None)


def preview_seq_len(
    scheduled_values: Sequence[ScheduledValue], step_infos: Sequence[StepInfo], spec: ModelSpec
) -> dict[str, tuple[float, ...]]:
    """Return {"seq_len": the length at each of `step_infos`}, or {} if it is not scheduled.

    Raises ConfigError if a length exceeds the windows of the data.
    """
    factor = find_seq_len_factor(scheduled_values)
    if factor is None:
        return {}
    context, factors = spec.inputs.shape[0], [factor(step_info) for step_info in step_infos]
    if max(factors) > 1 + 1e-9:
        raise ConfigError(
            f"sched.applies_to=seq_len asks for {max(factors):g} times the {context} tokens of a window "
            "(data.context), of which it can only take a part",
            "use factors up to 1, as in sched=linear sched.start_factor=0.25 sched.end_factor=1, "
            "and set data.context to the largest length",
        )
    return {"seq_len": tuple(float(compute_seq_len(value, context)) for value in factors)}
