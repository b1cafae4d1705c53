"""Find lengths of a run, and intervals, that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator

from dnntrain.config.run_config import LightConfig
from dnntrain.protocols import Refusal, ScheduledParam


def find_length_refusals(config: LightConfig, ranks: int) -> Iterator[Refusal]:
    train, duration = config.train, config.train.duration
    lengths = (duration, config.eval.every, config.checkpoint.every, config.log.every)
    size = train.micro_batch_size
    is_batch_scheduled = ScheduledParam.BATCH_SIZE in config.sched.scheduled_params
    if size is not None and size > train.batch_size and not is_batch_scheduled:
        yield Refusal(
            f"train.micro_batch_size={size} is more than train.batch_size={train.batch_size}",
            f"use train.micro_batch_size={train.batch_size} or less",
        )
    if duration.value == 0:
        yield Refusal(f"train.duration={duration} must be at least one step", "use train.duration=1step or more")
    if duration.unit == "%":
        yield Refusal(f"train.duration={duration} must not be a percentage", "use train.duration=10ep, 5000step or 90s")
    if any(every.value == 0 for every in lengths[1:]):
        yield Refusal("eval.every, checkpoint.every and log.every must be greater than 0", "use 1step or more")
    yield from _find_unfreezing_refusals(config)
    if train.profile is not None and (
        train.profile.unit == "s" or (train.profile.unit == "%" and duration.unit == "s")
    ):
        yield Refusal(f"train.profile={train.profile} cannot be converted to steps", "use train.profile=20step")
    if ranks > 1 and any(length.unit == "s" for length in lengths):
        yield Refusal(
            f"{ranks} ranks cannot end, evaluate or save after a number of seconds, because each rank has its "
            "own clock",
            "give train.duration, eval.every, checkpoint.every and log.every in steps or epochs",
        )


def _find_unfreezing_refusals(config: LightConfig) -> Iterator[Refusal]:
    unfreeze_at, freeze = config.train.unfreeze_at, config.train.freeze
    if unfreeze_at is None:
        return
    if not freeze:
        yield Refusal(
            f"train.unfreeze_at={unfreeze_at} has no effect, because nothing is frozen",
            'name the frozen part, as in train.freeze=["*","!head.*"], or leave train.unfreeze_at out',
        )
    if unfreeze_at.unit == "s" or (unfreeze_at.unit == "%" and config.train.duration.unit == "s"):
        yield Refusal(
            f"train.unfreeze_at={unfreeze_at} cannot be converted to steps", "use train.unfreeze_at=2ep or 500step"
        )
    if config.parallel.gradient_copies:
        yield Refusal(
            "train.unfreeze_at does not support parallel.grad_compression=powersgd, whose state belongs to the "
            "gradients of one set of parameters",
            "use parallel.grad_compression=none",
        )
