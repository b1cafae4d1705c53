"""Settings and checks that the choices of `prune=` share."""

from __future__ import annotations

from collections.abc import Sequence

from dnntrain.errors import ConfigError
from dnntrain.protocols import BuildContext
from dnntrain.utils.units import Duration


def find_steps(at: Duration, until: Duration, cuts: int, context: BuildContext, is_several: bool) -> tuple[int, ...]:
    """Return the numbers of completed steps after which the network is pruned.

    One at `at`, or `cuts` equally spaced from `at` to `until`; a debugging run makes as many as
    fit. Raises ConfigError for a time, and for a step at or after the end of the run.
    """
    first = _count_steps("prune.at", at, context)
    if not is_several:
        return (first,)
    last = _count_steps("prune.until", until, context)
    if last <= first:
        raise ConfigError(
            f"prune.until={until} must be after prune.at={at}", "use prune.at=20% prune.until=60%, for example"
        )
    if context.fits_durations:
        cuts = min(cuts, last - first + 1)
    if last - first < cuts - 1:
        raise ConfigError(
            f"prune.cuts={cuts} does not fit between the steps {first} and {last}",
            f"use prune.cuts={last - first + 1} or less",
        )
    return tuple(first + round(number * (last - first) / max(cuts - 1, 1)) for number in range(cuts))


def _count_steps(key: str, value: Duration, context: BuildContext) -> int:
    total = context.total_steps
    if value.unit == "s" or not total:
        raise ConfigError(
            f"{key}={value} cannot be converted to steps" + ("" if total else ", because train.duration is a time"),
            f"use %, ep or step, as in {key}=50%, and train.duration in ep or step",
        )
    step = context.epoch_schedule.count_steps(value, total)
    if step >= total and context.fits_durations:
        return total - 1
    if step >= total:
        raise ConfigError(
            f"{key}={value} must be before the end of the run, because training continues with the smaller network",
            f"use {key}=50%, for example",
        )
    return step


def list_ratios(ratio: float, cuts: int, is_gradual: bool) -> Sequence[float]:
    """Return the share that is removed after each of several cuts.

    Iterative cuts remove equal shares of the rest: 1 - (1 - r)^(k / n). Gradual ones follow r (1 -
    (1 - k / n)³) (Zhu & Gupta, "To prune, or not to prune", 2017).
    """
    parts = [(number + 1) / cuts for number in range(cuts)]
    if is_gradual:
        return [ratio * (1 - (1 - part) ** 3) for part in parts]
    return [1 - (1 - ratio) ** part for part in parts]
