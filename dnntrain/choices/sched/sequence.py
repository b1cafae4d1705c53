"""Any schedules, one after another."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from dnntrain.choices.sched._base import Curve, Schedule, convert_to_steps, fit_lengths, get_run_length
from dnntrain.choices.sched._schedule_string import ParsedSchedule, parse_schedule
from dnntrain.config.fields import Annotated, Text
from dnntrain.errors import ConfigError
from dnntrain.protocols import BuildContext, Hooks
from dnntrain.utils.units import Duration


@dataclass(frozen=True)
class SequenceSchedule(Schedule):
    """The curves of several schedules in sequence, each over its stage.

    It is torch's SequentialLR. Percentages refer to the run after the warm-up. At most one stage
    may omit its duration; it takes the rest. A run can be extended if the other durations are in
    steps or epochs.
    """

    stages: tuple[
        Annotated[
            str,
            Text(r"[a-z]\w*(:[^:\s]+)*", "a stage such as linear:10%:start_factor=0.1:end_factor=1, or cosine", 200),
        ],
        ...,
    ] = ("linear:10%:start_factor=0.1:end_factor=1", "cosine")  # NAME:DURATION:KEY=VALUE…, one after another

    def __post_init__(self) -> None:
        stages = [parse_schedule(stage, "sched.stages", ("warmup", "cooldown", "applies_to")) for stage in self.stages]
        if not stages or sum(stage.duration is None for stage in stages) > 1:
            raise ConfigError(
                f"sched.stages=[{', '.join(self.stages)}] "
                "must hold at least one stage, and at most one without a duration",
                "give each stage a duration, as in cosine:90%; one stage may omit it",
            )
        if any(isinstance(stage.schedule, SequenceSchedule) for stage in stages):
            raise ConfigError("sched.stages: a sequence cannot contain a sequence", "add its stages to the one list")

    @property
    def max_gamma(self) -> float:
        return max(parse_schedule(stage_text, "sched.stages", ()).schedule.max_gamma for stage_text in self.stages)

    def make_curve(self, context: BuildContext, length: float) -> Curve:
        stages = [parse_schedule(stage, "sched.stages", ()) for stage in self.stages]
        starts = _compute_stage_starts(stages, self.stages, context, length)
        ends = [*starts[1:], length]
        curves = [
            stage.schedule.make_curve(context, max(end - start, 1e-12))
            for stage, start, end in zip(stages, starts, ends, strict=True)
        ]

        def value(done: float) -> float:
            index = bisect_right(starts, done) - 1
            return curves[index](done - starts[index])

        return value

    def build(self, context: BuildContext) -> Hooks:
        return self.build_hooks(context)


def _compute_stage_starts(
    stages: list[ParsedSchedule], texts: tuple[str, ...], context: BuildContext, length: float
) -> list[float]:
    """Return where each stage begins, in whole steps if their number is known."""
    lengths = [
        None if stage.duration is None else _compute_stage_length(stage.duration, context, length) for stage in stages
    ]
    if context.fits_durations:
        lengths = _fit_stages(lengths, context, length)
    stated_length = sum(item for item in lengths if item is not None)
    has_open_stage = None in lengths
    has_whole_steps = context.total_steps > 0 and not context.num_epochs
    tolerance = 1.0 if has_whole_steps else 1e-9
    if (
        stated_length - length > tolerance
        or (has_open_stage and stated_length >= length)
        or (not has_open_stage and length - stated_length > tolerance)
    ):
        unit = "epochs" if context.num_epochs else "steps" if get_run_length(context) else "of the run"
        raise ConfigError(
            f"sched.stages=[{', '.join(texts)}] take {stated_length:g} {unit}, but there are {length:g}",
            "leave the duration of one stage out: it takes the rest",
        )
    starts, position = [], 0.0
    for item in lengths:
        starts.append(float(round(position)) if has_whole_steps else position)
        position += length - stated_length if item is None else item
    return starts


def _fit_stages(lengths: list[float | None], context: BuildContext, length: float) -> list[float | None]:
    """Return the lengths of the stages of a debugging run, which fill the run."""
    stated = tuple(item for item in lengths if item is not None)
    open_stages = len(lengths) - len(stated)
    fitted = iter(fit_lengths(stated, context, length, open_stages))
    if open_stages:
        return [None if item is None else next(fitted) for item in lengths]
    return [item * length / (sum(stated) or 1.0) for item in stated]


def _compute_stage_length(duration: Duration, context: BuildContext, length: float) -> float:
    """Return the length without rounding, so that the stages add up to their total."""
    if duration.unit == "%":
        return duration.value / 100 * length
    return convert_to_steps(duration, context, "sched.stages")
