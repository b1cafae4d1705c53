"""Any schedules, one after another."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from dnntrain.choices.sched._base import Curve, Schedule, length_in_steps, run_length
from dnntrain.choices.sched._schedule_string import Written, written
from dnntrain.config.fields import Annotated, Text
from dnntrain.errors import ConfigError
from dnntrain.protocols import Context, Parts
from dnntrain.utils.units import Duration


@dataclass(frozen=True)
class Sequence(Schedule):
    """In each part its schedule's own curve, over that part's length (torch's SequentialLR).

    Percentages are of what follows the warm-up. At most one part has no duration; it takes what the others leave, and with one in
    steps or epochs and the rest open, a run can be made longer.
    """

    parts: tuple[
        Annotated[str, Text(r"[a-z]\w*(:[^:\s]+)*", "a part such as linear:10%:start=0.1:end=1, or cosine", 200)], ...
    ] = ("linear:10%:start=0.1:end=1", "cosine")  # NAME:DURATION:KNOB=VALUE…, each after the one before

    def __post_init__(self) -> None:
        parsed = [written(part, "sched.parts", ("warmup", "cooldown", "param")) for part in self.parts]
        if not parsed or sum(part.duration is None for part in parsed) > 1:
            raise ConfigError(
                f"sched.parts=[{', '.join(self.parts)}]: the length of the parts is not known",
                "give parts, each with its duration as in cosine:90%; one may be without",
            )
        if any(isinstance(part.schedule, Sequence) for part in parsed):
            raise ConfigError("sched.parts: a sequence within a sequence", "write its parts into the one list")

    @property
    def largest_gamma(self) -> float:
        return max(written(part, "sched.parts", ()).schedule.largest_gamma for part in self.parts)

    def curve(self, context: Context, length: float) -> Curve:
        parsed = [written(part, "sched.parts", ()) for part in self.parts]
        starts = _starts(parsed, self.parts, context, length)
        ends = [*starts[1:], length]
        curves = [
            part.schedule.curve(context, max(end - start, 1e-12))
            for part, start, end in zip(parsed, starts, ends, strict=True)
        ]

        def value(done: float) -> float:
            at = bisect_right(starts, done) - 1
            return curves[at](done - starts[at])

        return value

    def build(self, context: Context) -> Parts:
        return self.scheduled(context)


def _starts(parsed: list[Written], texts: tuple[str, ...], context: Context, length: float) -> list[float]:
    """Where each part begins, in whole steps where the run has a known number of them."""
    lengths = [None if part.duration is None else _length(part.duration, context, length) for part in parsed]
    given = sum(item for item in lengths if item is not None)
    open_part = None in lengths
    whole = context.total_steps > 0 and not context.epochs
    tolerance = 1.0 if whole else 1e-9
    if given - length > tolerance or (open_part and given >= length) or (not open_part and length - given > tolerance):
        unit = "epochs" if context.epochs else "steps" if run_length(context) else "of the run"
        raise ConfigError(
            f"sched.parts=[{', '.join(texts)}] take {given:g} {unit}, and there are {length:g}",
            "leave the duration of one part out: it takes what the others leave",
        )
    starts, at = [], 0.0
    for item in lengths:
        starts.append(float(round(at)) if whole else at)
        at += length - given if item is None else item
    return starts


def _length(duration: Duration, context: Context, length: float) -> float:
    """Not rounded, so that the parts together are as long as they say."""
    if duration.unit == "%":
        return duration.value / 100 * length
    return length_in_steps(duration, context, "sched.parts")
