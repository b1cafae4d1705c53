"""Compute the batch size of each epoch: for `sched.applies_to=batch_size`, and for a resumed run."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from dnntrain.config.run_config import LightConfig, RunConfig
from dnntrain.errors import ConfigError
from dnntrain.protocols import AugmentChoice, BuildContext, ScheduledParam, StepInfo
from dnntrain.utils.epochs import LEAVE_OUT_HINT, BatchSizeSchedule, EpochSchedule


class EarlierBatches(NamedTuple):
    """The schedule of a run before it is resumed, and the steps that it has done."""

    schedule: EpochSchedule
    steps: int


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


def continue_schedule(config: RunConfig, new: EpochSchedule, earlier: EarlierBatches | None) -> EpochSchedule:
    """Return the schedule of a resumed run: the batches so far, and `train.batch_size` from there on.

    Raises ConfigError if the position in the epoch does not allow the size, with the nearest one
    that it allows.
    """
    if earlier is None or earlier.schedule.examples != new.examples:
        return new
    size, steps = config.train.batch_size, earlier.steps
    try:
        schedule = replace(earlier.schedule.continue_with(size, steps), drop_last=new.drop_last)
    except ValueError as error:
        raise _make_position_error(size, earlier, int(error.args[0])) from None
    copies = max((choice.copies for choice in config.augment.values()), default=1)
    if copies > 1 and not schedule.is_constant:
        raise ConfigError(
            f"train.batch_size={size}: augment=[repeated_augment] does not support another size than the saved one",
            f"use train.batch_size={earlier.schedule.find_size_at(max(steps - 1, 0))}",
        )
    return schedule


def _make_position_error(size: int, earlier: EarlierBatches, taken: int) -> ConfigError:
    old_size = earlier.schedule.find_size_at(earlier.steps - 1)
    epoch, batch = earlier.schedule.locate_step(earlier.steps)
    nearest = min(
        (divisor for divisor in range(1, taken + 1) if taken % divisor == 0),
        key=lambda divisor: (abs(divisor - size), divisor),
    )
    epoch_end = earlier.steps - batch + earlier.schedule.steps_in_epoch(epoch)
    return ConfigError(
        f"train.batch_size={size}: the run has taken {taken} examples of epoch {epoch} (step {earlier.steps}), "
        f"which is not a multiple of {size}",
        f"use train.batch_size={nearest}; or first resume with train.batch_size={old_size} "
        f"train.duration={epoch_end}step to the end of the epoch",
    )
