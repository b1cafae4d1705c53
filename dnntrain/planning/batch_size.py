"""Compute the batch size of each epoch for `sched.applies_to=batch_size`."""

from __future__ import annotations

import math
from dataclasses import replace

from dnntrain.config.run_config import LightConfig, RunConfig
from dnntrain.errors import ConfigError
from dnntrain.protocols import AugmentChoice, BuildContext, ScheduledParam, StepInfo
from dnntrain.utils.epochs import LEAVE_OUT_HINT, BatchSizeSchedule, EpochSchedule


def build_batch_size_schedule(config: RunConfig, context: BuildContext, examples: int) -> BatchSizeSchedule:
    """Return the batch size of each epoch from the configuration alone.

    size(e) = train.batch_size × the factor of the schedule at the beginning of epoch e, rounded to an
    integer, at least 1. The schedule counts epochs if train.duration is in epochs, and the steps of
    the preceding epochs if it is in steps. `context` has the `num_epochs` or `total_steps` of the run
    (`with_schedule_length`). With augment=[repeated_augment], each batch size is a multiple of the
    number of copies, and it changes only after all examples have been used.

    Raises ConfigError if the schedule does not fit, or if a batch is larger than an epoch.
    """
    size = config.train.batch_size
    if not is_batch_size_scheduled(config):
        return BatchSizeSchedule(EpochSchedule.constant(examples, size, config.train.drop_last), size)
    try:
        return _walk_epochs(config, context, examples)
    except OverflowError:
        raise ConfigError(
            "sched.applies_to=batch_size: the factor of the schedule overflows",
            "use a schedule that rises less",
        ) from None


def _walk_epochs(config: RunConfig, context: BuildContext, examples: int) -> BatchSizeSchedule:
    """Compute the batch size epoch by epoch."""
    size = config.train.batch_size
    (factor,) = [
        control.value
        for control in config.sched.build(context).scheduled_values
        if control.target is ScheduledParam.BATCH_SIZE
    ]
    augmentations = [choice for choice in config.name_choices().values() if isinstance(choice, AugmentChoice)]
    copies = max((choice.copies for choice in augmentations), default=1)
    timetable = EpochSchedule.constant(examples, size, config.train.drop_last)
    changes: list[tuple[int, int]] = []
    factors: list[float] = []
    epoch = step = 0
    while epoch < context.num_epochs if context.num_epochs else step < context.total_steps:
        if epoch % copies == 0:
            fraction = epoch / context.num_epochs if context.num_epochs else step / context.total_steps
            factors.append(factor(StepInfo(step, float(epoch), fraction)))
            epoch_size = max(1, round(size * factors[-1] / copies)) * copies
            if not changes or changes[-1][1] != epoch_size:
                changes.append((epoch, epoch_size))
        step += max(1, timetable.count_steps_per_epoch(changes[-1][1]))
        epoch += 1
    first_too_large = next(((epoch, epoch_size) for epoch, epoch_size in changes if epoch_size > examples), None)
    if first_too_large is not None:
        max_size = math.floor(examples / max(factors))
        raise ConfigError(
            "sched.applies_to=batch_size asks for a batch of {1} in epoch {0}".format(*first_too_large)
            + f", but there are {examples} training examples",
            (f"use train.batch_size={max_size} or less" if max_size else LEAVE_OUT_HINT)
            + ", or a schedule that rises less",
        )
    return BatchSizeSchedule(replace(timetable, changes=tuple(changes)), size, min(factors), max(factors))


def is_batch_size_scheduled(config: LightConfig) -> bool:
    """Return True if the schedule sets the batch size."""
    return ScheduledParam.BATCH_SIZE in config.sched.scheduled_params


def with_schedule_length(config: RunConfig, context: BuildContext) -> BuildContext:
    """Return `context` with the run's length if the batch size is scheduled.

    The length is in the unit that the schedule counts: epochs or steps. Raises ConfigError if the
    duration is a time, since the epochs are then unknown before the run.
    """
    if not is_batch_size_scheduled(config):
        return context
    duration = config.train.duration
    if duration.unit == "s":
        raise ConfigError(
            f"sched.applies_to=batch_size does not support train.duration={duration}: the epochs of a run by "
            "time are unknown beforehand",
            f"give train.duration in epochs or steps, or {LEAVE_OUT_HINT}",
        )
    if duration.unit == "ep":
        return replace(context, num_epochs=duration.value)
    return replace(context, total_steps=int(duration.value))
