"""The batch size of each epoch (`sched.param=batch_size`), worked out from the configuration alone, before the run."""

from __future__ import annotations

import math
from dataclasses import replace

from dnntrain.config.run_config import RunConfig
from dnntrain.errors import ConfigError
from dnntrain.planning.checks.combinations import scheduled
from dnntrain.protocols import Context, Moment, Target
from dnntrain.utils.epochs import LEFT_OUT, BatchSizes, Timetable


def batch_sizes(config: RunConfig, context: Context, examples: int) -> BatchSizes:
    """size(e) = train.batch_size × the schedule's factor at the beginning of epoch e, rounded to a whole number, at least 1.

    Where train.duration is in epochs, the schedule counts epochs; where it is in steps, the steps that the epochs before had.
    `context` holds the run's `epochs` or its `total_steps` (`counting`). Copies of examples (reg=[repeated_augment]) fill each batch
    evenly: it is a multiple of their number, and changes only after all examples had their turn.

    Raises ConfigError where the schedule does not fit, or a batch is larger than an epoch.
    """
    size = config.train.batch_size
    if not schedules_batch_size(config):
        return BatchSizes(Timetable.constant(examples, size), size)
    try:
        return _walked(config, context, examples)
    except OverflowError:
        raise ConfigError(
            "sched.param=batch_size: the factor of the schedule grows beyond any number",
            "use a schedule that rises less",
        ) from None


def _walked(config: RunConfig, context: Context, examples: int) -> BatchSizes:
    """Goes from epoch to epoch."""
    size = config.train.batch_size
    (factor,) = [
        control.value for control in config.sched.build(context).controls if control.target is Target.BATCH_SIZE
    ]
    copies: int = max((getattr(method, "copies", 1) for method in config.reg.values()), default=1)
    found: list[tuple[int, int]] = []
    factors: list[float] = []
    epoch = step = 0
    while epoch < context.epochs if context.epochs else step < context.total_steps:
        if epoch % copies == 0:
            share = epoch / context.epochs if context.epochs else step / context.total_steps
            factors.append(factor(Moment(step, float(epoch), share)))
            wanted = max(1, round(size * factors[-1] / copies)) * copies
            if not found or found[-1][1] != wanted:
                found.append((epoch, wanted))
        step += -(-examples // found[-1][1])
        epoch += 1
    first_too_large = next(((epoch, wanted) for epoch, wanted in found if wanted > examples), None)
    if first_too_large is not None:
        most = math.floor(examples / max(factors))
        raise ConfigError(
            "sched.param=batch_size asks for a batch of {1} in epoch {0}".format(*first_too_large)
            + f", and there are {examples} training examples",
            (f"use train.batch_size={most} or less" if most else LEFT_OUT) + ", or a schedule that rises less",
        )
    return BatchSizes(Timetable(examples, tuple(found)), size, min(factors), max(factors))


def schedules_batch_size(config: RunConfig) -> bool:
    """True where the schedule sets the batch size."""
    return Target.BATCH_SIZE.value in scheduled(config)


def counting(config: RunConfig, context: Context) -> Context:
    """`context` with the length of the run in what its schedule counts, where that sets the batch size.

    Raises ConfigError for a run by time, of which no epoch is known beforehand.
    """
    if not schedules_batch_size(config):
        return context
    duration = config.train.duration
    if duration.unit == "s":
        raise ConfigError(
            f"sched.param=batch_size needs to know the epochs of the run beforehand, but train.duration={duration} is a time",
            f"give train.duration in epochs or steps, or {LEFT_OUT}",
        )
    if duration.unit == "ep":
        return replace(context, epochs=duration.value)
    return replace(context, total_steps=int(duration.value))
