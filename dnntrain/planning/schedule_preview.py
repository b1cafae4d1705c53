"""Show the scheduled values of a run before it starts."""

from __future__ import annotations

import math
from typing import Any

from dnntrain.config.run_config import RunConfig
from dnntrain.planning.batch_size import is_batch_size_scheduled
from dnntrain.planning.curve_text import CURVE_POINTS
from dnntrain.planning.seq_len import preview_seq_len
from dnntrain.protocols import BuildContext, ScheduledParam, StepInfo
from dnntrain.utils.epochs import EpochSchedule


def make_epoch_fields(timetable: EpochSchedule, total_steps: int) -> dict[str, Any]:
    """Return the fields of a context that follow from the timetable of the run."""
    steps_per_epoch = timetable.steps_in_epoch(0) if timetable.is_constant else 0
    return {"explicit_schedule": timetable, "steps_per_epoch": steps_per_epoch, "total_steps": total_steps}


def preview_schedule(
    config: RunConfig, context: BuildContext, timetable: EpochSchedule
) -> dict[str, tuple[float, ...]]:
    """Return each scheduled value over the run.

    Raises ConfigError if the schedule does not fit the run.
    """
    total_steps = context.total_steps
    scheduled_values = config.sched.build(context).scheduled_values
    factors = [
        scheduled_value.value
        for scheduled_value in scheduled_values
        if scheduled_value.target is ScheduledParam.LEARNING_RATE
    ]
    other_values = {
        f"{scheduled_value.target.value}{' ×' if scheduled_value.is_relative else ''}": scheduled_value.value
        for scheduled_value in scheduled_values
        if isinstance(scheduled_value.target, ScheduledParam) and not scheduled_value.target.is_in_every_run
    }
    points = min(CURVE_POINTS, total_steps or CURVE_POINTS)
    shares = [index / max(points - 1, 1) for index in range(points)]
    step_infos = [
        StepInfo(step, timetable.epoch_at(step), step / total_steps) if total_steps else StepInfo(0, 0.0, share)
        for share in shares
        for step in [round(share * (total_steps - 1))]
    ]
    rates = tuple(
        context.learning_rate * math.prod([value(step_info) for value in factors]) for step_info in step_infos
    )
    sizes = tuple(float(timetable.batch_size_at(timetable.locate_step(step_info.step)[0])) for step_info in step_infos)
    return {
        "lr": rates,
        **{name: tuple(value(step_info) for step_info in step_infos) for name, value in other_values.items()},
        **({"batch size": sizes} if is_batch_size_scheduled(config) else {}),
        **preview_seq_len(scheduled_values, step_infos, context.spec),
    }
