"""Find the settings with which a run trains faster on this machine.

Each setting is tried beside the best line so far, in a process of its own: both trainers take turns
with blocks of steps, so that they share the state of the machine. A setting is kept if the interval
of the ratio of their times excludes 1, and if the losses of the first steps agree as its grade says.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.protocols.speed import SpeedGrade
from dnntrain.tune.lines import Line
from dnntrain.tune.probe import Probe, ProbeRequest, describe_probe, run_probe
from dnntrain.tune.speed_settings import list_speed_settings
from dnntrain.utils.machine_load import describe_current_load
from dnntrain.utils.units import format_seconds

if TYPE_CHECKING:
    from dnntrain.run.session import Session

#: Seconds of a probe at least, and the share of the budget that is kept for the last measurement.
_LEAST_PROBE_S = 4.0
_FINAL_SHARE = 0.2

Say = Callable[[str], None]


@dataclass
class SpeedResult:
    """The settings that were found, the evidence, and the time that the search took.

    skipped      settings for which there was no time
    is_reliable  False if other programs used the machine
    """

    words: list[str] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    final: Probe | None = None
    took_s: float = 0.0
    skipped: list[str] = field(default_factory=list)
    is_reliable: bool = True

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def tune_speed(
    session: Session, overrides: Sequence[str], config_dir: Path | None, budget_s: float, allow: SpeedGrade, say: Say
) -> SpeedResult:
    """Try the settings one after the other, and measure the line that was found once more."""
    load = describe_current_load()
    if load is not None:
        say(f"{load}. The figures below are rough; repeat on an idle machine")
    started = time.monotonic()
    line, total_steps = Line(tuple(overrides), config_dir), session.plan.total_steps
    result = SpeedResult(is_reliable=load is None)
    settings = list_speed_settings(session, allow)
    attempts = [
        (f"{setting.key}={value}", setting.key, setting.grade) for setting in settings for value in setting.values
    ]
    say(f"trying {len(attempts)} settings in about {format_seconds(budget_s)}")
    for number, (word, key, grade) in enumerate(attempts):
        left_s = budget_s * (1 - _FINAL_SHARE) - (time.monotonic() - started)
        if left_s <= 0:
            result.skipped = [attempt[0] for attempt in attempts[number:]]
            say(f"the budget is spent; not tried: {' '.join(result.skipped)}")
            break
        kept = [kept_word for kept_word in result.words if not kept_word.startswith(f"{key}=")]
        probe_s = max(_LEAST_PROBE_S, left_s / (len(attempts) - number))
        probe = run_probe(ProbeRequest(line, result.words, [*kept, word], grade), probe_s, total_steps, session)
        result.probes.append(probe)
        say(f"{number + 1} of {len(attempts)}  {word}: {describe_probe(probe)}")
        if probe.verdict == "faster":
            result.words = [*kept, word]
    if result.words:
        left_s = max(_LEAST_PROBE_S, budget_s - (time.monotonic() - started))
        farthest = max((probe.grade for probe in result.probes if probe.verdict == "faster"), key=_order)
        result.final = run_probe(
            ProbeRequest(line, [], result.words, SpeedGrade(farthest)), left_s, total_steps, session
        )
        say(f"all together: {describe_probe(result.final)}")
        if result.final.verdict != "faster":
            result.words = []
    result.took_s = time.monotonic() - started
    return result


def _order(grade: str) -> int:
    return [item.value for item in SpeedGrade].index(grade)


def format_line(result: SpeedResult) -> str:
    """Return the overrides to add; empty if nothing is faster."""
    return " ".join(result.words)


def format_json(result: SpeedResult) -> str:
    """Return the settings with all evidence."""
    return json.dumps({"line": format_line(result), **result.as_json()})
