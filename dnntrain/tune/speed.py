"""Find the settings with which a run trains faster on this machine.

Each setting is tried beside the best line so far, in a process of its own: both trainers take turns
with blocks of steps, so that they share the state of the machine. A setting is kept if the interval
of the ratio of their times excludes 1, and if the losses of the first steps agree as its grade says.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.protocols.speed import SpeedAttempt, SpeedGrade, SpeedSetting
from dnntrain.tune.budget import Budget
from dnntrain.tune.final_line import FasterLine, choose_final_line, combine_alternatives
from dnntrain.tune.goal import Goal
from dnntrain.tune.lines import Line
from dnntrain.tune.probe import UNDECIDED, Probe, ProbeRequest, describe_probe, run_probe
from dnntrain.tune.roofline import LEAST_EXPECTED_GAIN, measure_roofline
from dnntrain.tune.speed_settings import describe_measured_steps, has_effect, list_speed_settings
from dnntrain.utils.machine_load import describe_current_load
from dnntrain.utils.units import format_seconds, pluralize

if TYPE_CHECKING:
    from dnntrain.run.session import Session
    from dnntrain.tune.accuracy import AccuracyJudge
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
    margin        the metric that settings may lose, judged by pairs of runs; None: they are not judged
    batches       batch sizes at which the latency is measured
    """

    overrides: tuple[str, ...]
    config_dir: Path | None = None
    goal: Goal = field(default_factory=Goal)
    budget_s: float | None = None
    allow: SpeedGrade = SpeedGrade.ROUNDING
    max_slowdown: float = 0.2
    margin: float | None = None
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

    def as_question(self) -> dict[str, Any]:
        """Return the options that another answer would follow from, besides the budget."""
        return {
            "allow": self.allow.value,
            "goal": str(self.goal),
            "limit": self.max_slowdown if self.goal.kind == "memory" else None,
            **({} if self.margin is None else {"margin": self.margin}),
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
        """Whether the machine was idle, and every setting and the last measurement were decided."""
        probes = [*self.probes, *([] if self.final is None else [self.final])]
        is_decided = not any(probe.verdict.startswith(UNDECIDED) for probe in probes)
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
    judge = None if request.margin is None else _prepare_judge(line, request.margin, say)
    result, faster_lines = SpeedResult(), list[FasterLine]()
    budget_s, attempts = _order_attempts(session, request, result, say, total_steps or 0)
    budget = Budget(budget_s, FINAL_SHARE)
    for number, attempt in enumerate(attempts):
        best = faster_lines[-1] if faster_lines else FasterLine([[]], SpeedGrade.BITWISE)
        if not has_effect(attempt.words[0], best.words):
            continue
        if not budget.has_time:
            note_skipped(result, attempts[number:], say)
            break
        alternatives = combine_alternatives(best, attempt)
        probe_s = max(LEAST_PROBE_S, budget.left_s / (len(attempts) - number))
        with budget.attempt():
            probe_request = ProbeRequest(line, best.words, alternatives[0], attempt.grade)
            probe = run_probe(probe_request, probe_s, total_steps, session, budget.left_s)
        result.probes.append(probe)
        say(f"{number + 1} of {len(attempts)}  {attempt.text}: {describe_probe(probe, best.words)}")
        if probe.verdict == "faster":
            grade = find_farthest_grade(item for item in result.probes if item.verdict == "faster")
            faster_lines.append(FasterLine(alternatives, grade))
            budget.expect_final()
    final_request = ProbeRequest(line, [], [], request.allow, ends_early=False)
    final_s = max(LEAST_PROBE_S, budget.final_s)
    choose_final_line(
        faster_lines,
        result,
        judge,
        lambda item: run_probe(replace(final_request, new=item.words, grade=item.grade), final_s, total_steps, session),
        say,
    )
    return result


def _prepare_judge(line: Line, margin: float, say: Say) -> AccuracyJudge:
    from dnntrain.tune.accuracy import AccuracyJudge

    return AccuracyJudge.prepare(line, margin, say)


def _order_attempts(
    session: Session, request: SpeedRequest, result: SpeedResult, say: Say, total_steps: int
) -> tuple[float, list[SpeedAttempt]]:
    """Return the seconds to measure and the overrides to try, by the phases of a step; `result` gets both."""
    say("measuring the phases of a step")
    settings = list_speed_settings(session, request.allow)
    phases_s = min(_PHASES_S, _PHASES_SHARE * request.choose_budget_s())
    roofline = measure_roofline(session, phases_s, any(setting.key == "precision" for setting in settings))
    budget_s = request.choose_budget_s(roofline.step.seconds * total_steps)
    attempts, others = roofline.order_attempts(settings, total_steps)
    if request.margin is not None:
        # What keeps the numbers remains if what changes them loses accuracy.
        attempts.sort(key=lambda attempt: attempt.grade is SpeedGrade.STATISTICAL)
    result.details = {"step": asdict(roofline.step), "left_out": dict(others)}
    if others:
        words = " ".join(word for word, _ in others)
        say(f"left out, since this run cannot gain {LEAST_EXPECTED_GAIN - 1:.0%} by them: {words}")
    trying = f"trying {pluralize(len(attempts), 'setting')} in about {format_seconds(budget_s)}"
    say(f"{describe_measured_steps(session)} takes {1000 * roofline.step.seconds:.3g} ms; {trying}")
    return budget_s, attempts


def list_attempts(settings: Sequence[SpeedSetting]) -> list[SpeedAttempt]:
    """Return the attempts in order."""
    return [setting.make_attempt(value) for setting in settings for value in setting.values]


def note_skipped(result: SpeedResult, attempts: Sequence[SpeedAttempt], say: Say) -> None:
    """Note the attempts for which there is no time."""
    result.skipped += [attempt.text for attempt in attempts]
    say(f"no time is left in the budget; not tried: {', '.join(result.skipped)}. --budget gives more time")


def find_farthest_grade(probes: Iterable[Probe | MemoryProbe]) -> SpeedGrade:
    """Return the grade of the setting that changes the numbers the most."""
    return SpeedGrade(max((probe.grade for probe in probes), key=_order))


def _order(grade: str) -> int:
    return [item.value for item in SpeedGrade].index(grade)


def make_evidence(result: SpeedResult) -> dict[str, Any]:
    """Return all evidence as plain values, with the `line` to add; it is empty if nothing is better."""
    evidence: dict[str, Any] = json.loads(json.dumps({"line": " ".join(result.words), **result.as_json()}))
    return evidence
