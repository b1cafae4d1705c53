"""Find the settings with which a run trains faster on this machine.

Each setting is tried beside the best line so far, in a process of its own: both trainers take turns
with blocks of steps, so that they share the state of the machine. A setting is kept if the interval
of the ratio of their times excludes 1, and if the losses of the first steps agree as its grade says.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.protocols.speed import SpeedGrade, SpeedSetting
from dnntrain.tune.budget import Budget
from dnntrain.tune.goal import Goal
from dnntrain.tune.lines import Line
from dnntrain.tune.probe import UNDECIDED, Probe, ProbeRequest, describe_probe, run_probe
from dnntrain.tune.roofline import LEAST_EXPECTED_GAIN, measure_roofline
from dnntrain.tune.speed_settings import has_effect, list_speed_settings
from dnntrain.utils.machine_load import describe_current_load
from dnntrain.utils.units import format_seconds, pluralize
from dnntrain.utils.words import get_key

if TYPE_CHECKING:
    from dnntrain.run.session import Session
    from dnntrain.tune.memory import MemoryProbe

#: Seconds of a probe at least, and the share of the budget that is kept for the last measurement.
LEAST_PROBE_S = 4.0
FINAL_SHARE = 0.2
#: Seconds of a search by default; for a long run a share of its time, up to a limit.
_BUDGET_S, _RUN_SHARE, _LONGEST_BUDGET_S = 120.0, 0.1, 600.0
#: Seconds in which the phases of a step are measured, and their share of the budget at most.
_PHASES_S, _PHASES_SHARE = 4.0, 0.05

Say = Callable[[str], None]


@dataclass(frozen=True)
class SpeedRequest:
    """The question of a search: the line, the goal, and the limits.

    budget_s      time to measure; None: see `choose_budget_s`
    max_slowdown  the share of its speed that a line may lose for less memory
    batches       batch sizes at which the latency is measured
    """

    overrides: tuple[str, ...]
    config_dir: Path | None = None
    goal: Goal = field(default_factory=Goal)
    budget_s: float | None = None
    allow: SpeedGrade = SpeedGrade.ROUNDING
    max_slowdown: float = 0.2
    batches: tuple[int, ...] = (1,)

    @property
    def line(self) -> Line:
        """The line as it is."""
        return Line(self.overrides, self.config_dir)

    def choose_budget_s(self, run_s: float = 0.0) -> float:
        """Return the seconds to measure: two minutes, or a tenth of a run of `run_s`, unless the request names them."""
        if self.budget_s is not None:
            return self.budget_s
        return min(_LONGEST_BUDGET_S, max(_BUDGET_S, _RUN_SHARE * run_s))

    def make_training_command(self, words: Sequence[str]) -> list[str]:
        """Return the command that trains a line of `words` in a process of its own."""
        config_dir = [] if self.config_dir is None else ["--config-dir", str(self.config_dir)]
        return [sys.executable, "-m", "dnntrain", "train", *words, *config_dir, "-q"]

    def as_question(self) -> dict[str, Any]:
        """Return the parts that another answer would follow from, besides the budget."""
        limits = {"memory": self.max_slowdown, "latency": list(self.batches)}
        line = sorted(word for word in self.overrides if not word.startswith("run_dir="))
        return {
            "line": line,
            "allow": self.allow.value,
            "goal": str(self.goal),
            "limit": limits.get(self.goal.kind),
        }


@dataclass
class SpeedResult:
    """The settings that were found, the evidence, and the time that the search took.

    skipped      settings for which there was no time
    is_reliable  False if other programs used the machine
    details      further evidence: the phases of a step, or that of a goal other than throughput
    """

    words: list[str] = field(default_factory=list)
    probes: list[Probe | MemoryProbe] = field(default_factory=list)
    final: Probe | MemoryProbe | None = None
    took_s: float = 0.0
    skipped: list[str] = field(default_factory=list)
    is_reliable: bool = True
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        """Whether the machine was idle, and every setting was decided within the budget."""
        is_decided = not any(probe.verdict.startswith(UNDECIDED) for probe in self.probes)
        return self.is_reliable and not self.skipped and is_decided

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def tune_speed(session: Session, request: SpeedRequest, say: Say) -> SpeedResult:
    """Search with the way of the goal; the result says whether the machine was idle."""
    from dnntrain.tune.latency import find_fast_export
    from dnntrain.tune.memory import reduce_memory
    from dnntrain.tune.time_to import reduce_time_to

    load = describe_current_load()
    if load is not None:
        say(f"{load}. The figures below are rough; repeat on an idle machine")
    started = time.monotonic()
    ways: dict[str, Callable[[Session, SpeedRequest, Say], SpeedResult]] = {
        "throughput": raise_throughput,
        "time_to": reduce_time_to,
        "memory": reduce_memory,
        "latency": find_fast_export,
    }
    result = ways[request.goal.kind](session, request, say)
    result.is_reliable = load is None
    result.took_s = time.monotonic() - started
    return result


def raise_throughput(session: Session, request: SpeedRequest, say: Say, total_steps: int | None = None) -> SpeedResult:
    """Try the settings one after the other, and measure the line that was found once more.

    `total_steps` are those in which a slow start must pay; None: those of the run.
    """
    line, total_steps = request.line, total_steps or session.plan.total_steps
    result = SpeedResult()
    budget_s, attempts = _order_attempts(session, request, result, say, total_steps or 0)
    budget = Budget(budget_s, FINAL_SHARE)
    for number, (word, grade) in enumerate(attempts):
        if not has_effect(word, result.words):
            continue
        if not budget.has_time:
            note_skipped(result, attempts[number:], say)
            break
        tried = replace_word(result.words, word)
        probe_s = max(LEAST_PROBE_S, budget.left_s / (len(attempts) - number))
        with budget.attempt():
            probe_request = ProbeRequest(line, result.words, tried, grade)
            probe = run_probe(probe_request, probe_s, total_steps, session, budget.left_s)
        result.probes.append(probe)
        say(f"{number + 1} of {len(attempts)}  {word}: {describe_probe(probe)}")
        if probe.verdict == "faster":
            result.words = tried
            budget.expect_final()
    if result.words:
        grade = find_farthest_grade(probe for probe in result.probes if probe.verdict == "faster")
        final_s = max(LEAST_PROBE_S, budget.final_s)
        final_request = ProbeRequest(line, [], result.words, grade, ends_early=False)
        result.final = run_probe(final_request, final_s, total_steps, session)
        say(f"all together: {describe_probe(result.final)}")
        if result.final.verdict != "faster":
            result.words = []
    return result


def _order_attempts(
    session: Session, request: SpeedRequest, result: SpeedResult, say: Say, total_steps: int
) -> tuple[float, list[tuple[str, SpeedGrade]]]:
    """Return the seconds to measure and the overrides to try, by the phases of a step; `result` gets both."""
    say("measuring the phases of a step")
    settings = list_speed_settings(session, request.allow)
    phases_s = min(_PHASES_S, _PHASES_SHARE * request.choose_budget_s())
    roofline = measure_roofline(session, phases_s, any(setting.key == "precision" for setting in settings))
    budget_s = request.choose_budget_s(roofline.step.seconds * total_steps)
    attempts, others = roofline.order_attempts(settings)
    result.details = {"step": asdict(roofline.step), "left_out": dict(others)}
    if others:
        say(f"left out, since they cannot gain {LEAST_EXPECTED_GAIN - 1:.0%}: {' '.join(word for word, _ in others)}")
    trying = f"trying {pluralize(len(attempts), 'setting')} in about {format_seconds(budget_s)}"
    say(f"a step takes {1000 * roofline.step.seconds:.3g} ms; {trying}")
    return budget_s, attempts


def list_attempts(settings: Sequence[SpeedSetting]) -> list[tuple[str, SpeedGrade]]:
    """Return the overrides to try, in order, with their grades."""
    return [(f"{setting.key}={value}", setting.grade) for setting in settings for value in setting.values]


def replace_word(words: Sequence[str], word: str) -> list[str]:
    """Return the words with `word`, which takes the place of another one of its key."""
    return [*(other for other in words if get_key(other) != get_key(word)), word]


def note_skipped(result: SpeedResult, attempts: Sequence[tuple[str, SpeedGrade]], say: Say) -> None:
    """Note the attempts for which there is no time."""
    result.skipped += [word for word, _ in attempts]
    say(f"the budget is spent; not tried: {' '.join(result.skipped)}")


def find_farthest_grade(probes: Iterable[Probe | MemoryProbe]) -> SpeedGrade:
    """Return the grade of the setting that changes the numbers the most."""
    return SpeedGrade(max((probe.grade for probe in probes), key=_order))


def _order(grade: str) -> int:
    return [item.value for item in SpeedGrade].index(grade)


def make_evidence(result: SpeedResult) -> dict[str, Any]:
    """Return all evidence as plain values, with the `line` to add; it is empty if nothing is better."""
    evidence: dict[str, Any] = json.loads(json.dumps({"line": " ".join(result.words), **result.as_json()}))
    return evidence
