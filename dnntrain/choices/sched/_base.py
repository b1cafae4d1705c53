"""Base class of schedules: warm-up, curve and cool-down as one pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dnntrain.config.fields import Duration, Literal, Probability
from dnntrain.errors import ConfigError
from dnntrain.protocols import (
    BuildContext,
    Hooks,
    SchedChoice,
    ScheduledParam,
    ScheduledValue,
    StepInfo,
)

#: The factor after `done` steps of the curve. `done` counts epochs if the schedule sets the batch size, and is the
#: fraction of the run if train.duration is a time.
Curve = Callable[[float], float]


@dataclass(frozen=True)
class WarmupSchedule(SchedChoice):
    """Raise the factor linearly during `warmup` (torch's LinearLR).

    It begins at `warmup_start_factor` times the curve's first value and ends at this value.
    """

    warmup: Duration = Duration(0, "step")  # length of the linear warm-up: 500step, 1ep or 5%
    warmup_start_factor: Probability = 0.1  # fraction of the curve's first value at the first step of the warm-up


@dataclass(frozen=True)
class Schedule(WarmupSchedule):
    """Warm-up, then the curve over the rest of the run, with a cool-down at its end.

    step < w                factor = (s + (1 - s) * step / w) * curve(0), s = warmup_start_factor
    w <= step <= total - c  factor = curve(step - w), a curve of length total - w
    total - c < step        from the value at total - c down to `cooldown_end_factor` at `total`,
                            in the shape `cooldown_shape`

    If `applies_to` includes the batch size and train.duration is in epochs, epochs are counted
    instead of steps.
    """

    cooldown: Duration = Duration(0, "step")  # length of the cooldown at the end of the run: 500step, 1ep or 20%
    cooldown_end_factor: Probability = 0.0  # factor at the end of the cooldown
    cooldown_shape: Literal["linear", "cos", "sqrt"] = "linear"  # shape of the cooldown; sqrt: 1 - sqrt(fraction)
    applies_to: (
        Literal["lr", "momentum", "weight_decay", "drop_rate", "batch_size", "seq_len"]
        | tuple[Literal["lr", "momentum", "weight_decay", "drop_rate", "batch_size", "seq_len"], ...]
    ) = "lr"  # value that the factor multiplies, or a list

    gamma = 1.0  # no option here: the factor of a fall, of schedules that fall by one

    @property
    def scheduled_params(self) -> tuple[ScheduledParam, ...]:
        names = (self.applies_to,) if isinstance(self.applies_to, str) else self.applies_to
        return tuple(ScheduledParam(name) for name in names)

    @property
    def max_gamma(self) -> float:
        """Return the largest factor by which the curve falls.

        If it is above 1 the curve rises, which suits the batch size only.
        """
        return float(self.gamma)

    def make_curve(self, context: BuildContext, length: float) -> Curve:
        """Return the schedule's own curve over `length` steps, without warm-up and cool-down.

        `length` is a fraction if train.duration is a time.
        """
        raise NotImplementedError

    def make_factor(self, context: BuildContext) -> Callable[[StepInfo], float]:
        """Return the whole schedule as a function of the step."""
        end = get_run_length(context) or 1.0  # a run by time counts in fractions of itself
        get_progress = make_progress_clock(context)
        warmup, cooldown = self.measure_ends(context)
        curve = self.make_curve(context, end - warmup)
        first, start = curve(0.0), end - cooldown
        value_at_start = curve(start - warmup)

        def value(step_info: StepInfo) -> float:
            step = get_progress(step_info)
            if step < warmup:
                return first * (self.warmup_start_factor + (1 - self.warmup_start_factor) * step / warmup)
            if step <= start or not cooldown:
                return curve(step - warmup)
            return compute_decline(
                value_at_start, self.cooldown_end_factor, min((step - start) / cooldown, 1.0), self.cooldown_shape
            )

        return value

    def measure_ends(self, context: BuildContext) -> tuple[float, float]:
        """Return the lengths of warm-up and cool-down in the unit of `get_run_length`.

        Raises ConfigError if they do not fit the run; in a debugging run, they are shortened.
        """
        total = get_run_length(context)
        end = total or 1.0
        warmup = convert_to_steps(self.warmup, context, "sched.warmup")
        cooldown = convert_to_steps(self.cooldown, context, "sched.cooldown")
        if context.fits_durations:
            warmup, cooldown = fit_lengths((warmup, cooldown), context, end, open_stages=1)
        _check_lengths(self, warmup, cooldown, end, total, "epochs" if context.num_epochs else "steps")
        return warmup, cooldown

    def build_hooks(self, context: BuildContext) -> Hooks:
        """Return hooks that set each of `applies_to` to its base value times the factor."""
        targets = self.scheduled_params
        if not targets or len(set(targets)) < len(targets):
            raise ConfigError(
                f"sched.applies_to={[target.value for target in targets]} "
                "must name at least one parameter, and each once",
                "use sched.applies_to=lr",
            )
        if self.max_gamma > 1 and targets != (ScheduledParam.BATCH_SIZE,):
            raise ConfigError(
                f"sched.gamma={self.max_gamma:g} "
                f"lets {' and '.join(target.value for target in targets)} grow without limit",
                "use sched.gamma=1 or less, or sched.applies_to=batch_size",
            )
        value = self.make_factor(context)
        return Hooks(scheduled_values=tuple(ScheduledValue(target, value, is_relative=True) for target in targets))


def compute_decline(first: float, last: float, share: float, shape: str) -> float:
    """Return the value between `first` and `last` at `share`, which rises from 0 to 1.

    linear  1 - share
    cos     (1 + cos(pi * share)) / 2
    sqrt    1 - sqrt(share): the best shape in the comparison of Hägele et al., "Scaling laws and
            compute-optimal training", 2024
    """
    left = {"linear": 1 - share, "cos": (1 + math.cos(math.pi * share)) / 2, "sqrt": 1 - math.sqrt(share)}[shape]
    return last + (first - last) * left


def get_run_length(context: BuildContext) -> float:
    """Return the length of the run in steps, or in epochs if the batch size is scheduled.

    It is 0 if train.duration is a time.
    """
    return context.num_epochs or float(context.total_steps)


def make_progress_clock(context: BuildContext) -> Callable[[StepInfo], float]:
    """Return a function from a step to the progress, in the unit of `get_run_length`.

    The progress is the fraction of the run if train.duration is a time.
    """
    if context.num_epochs:
        return lambda step_info: step_info.epoch
    return (lambda step_info: float(step_info.step)) if context.total_steps else (lambda step_info: step_info.fraction)


def convert_to_steps(duration: Duration, context: BuildContext, key: str) -> float:
    """Return `duration` in the unit of `get_run_length`.

    If train.duration is a time, `duration` must be a percentage; the result is a fraction.
    """
    if duration.value == 0:
        return 0.0
    if context.num_epochs and duration.unit != "s":
        return _convert_to_epochs(duration, context.num_epochs, key)
    if context.total_steps == 0:
        if duration.unit != "%":
            raise ConfigError(
                f"{key}={duration} needs a run of known length, but train.duration is a time",
                f"give {key} in percent, or train.duration in steps or epochs",
            )
        return duration.value / 100
    if duration.unit == "s":
        raise ConfigError(f"{key}={duration} is a time", "give it in steps, epochs or percent: 500step, 1ep, 5%")
    if duration.unit == "ep" and not context.steps_per_epoch:
        raise ConfigError(
            f"{key}={duration} must not be in epochs because the batch size is scheduled "
            "and train.duration is in steps",
            f"give {key} in steps or percent, or train.duration in epochs",
        )
    return float(duration.to_steps(context.steps_per_epoch, context.total_steps))


def _convert_to_epochs(duration: Duration, epochs: float, key: str) -> float:
    if duration.unit == "step":
        raise ConfigError(
            f"{key}={duration} must not be in steps because the batch size is scheduled "
            "and train.duration is in epochs",
            f"give {key} in epochs or percent, or train.duration in steps",
        )
    return duration.value if duration.unit == "ep" else duration.value / 100 * epochs


def convert_to_positive_steps(duration: Duration, context: BuildContext, key: str, *, is_default: bool) -> float:
    """Return `convert_to_steps`; raise ConfigError if the result is not above 0.

    A duration of less than a step becomes one step if it is the default or the run a debugging run.
    """
    steps = convert_to_steps(duration, context, key)
    if steps <= 0 < duration.value and (is_default or context.fits_durations):
        return 1.0
    if steps <= 0:
        total_text = f" of the {context.total_steps} steps of train.duration" if duration.unit == "%" else ""
        raise ConfigError(f"{key}={duration}{total_text} must be above 0", "set it to at least 1step")
    return steps


def fit_lengths(
    lengths: tuple[float, ...], context: BuildContext, length: float, open_stages: int
) -> tuple[float, ...]:
    """Return `lengths` in proportion, so that their sum leaves a share of `length` to each open stage.

    A share is one step, or a tenth if epochs or fractions are counted. Lengths that fit do not change.
    """
    has_whole_steps = context.total_steps > 0 and not context.num_epochs
    available = max(length - open_stages * (1.0 if has_whole_steps else length / 10), 0.0)
    if sum(lengths) <= available:
        return lengths
    fitted = tuple(item * available / sum(lengths) for item in lengths)
    return tuple(map(math.floor, fitted)) if has_whole_steps else fitted


def _check_lengths(schedule: Schedule, warmup: float, cooldown: float, end: float, total: float, unit: str) -> None:
    for key, duration, steps in (("warmup", schedule.warmup, warmup), ("cooldown", schedule.cooldown, cooldown)):
        if steps >= end and not (key == "cooldown" and steps == end):
            length = f"is {steps:g} {unit}, but the run has {total:g}" if total else "is the whole run"
            word = {"warmup": "warm-up", "cooldown": "cool-down"}[key]
            raise ConfigError(f"sched.{key}={duration} {length}", f"shorten the {word} or increase train.duration")
    if warmup + cooldown > end * (1 + 1e-12):
        raise ConfigError(
            f"sched.warmup={schedule.warmup} and sched.cooldown={schedule.cooldown} are longer than the run together",
            "shorten one of them or increase train.duration",
        )
