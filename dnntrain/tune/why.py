"""`dnntrain why`: where the time of a step goes, and which settings gain the most, measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dnntrain.training import step_phases as phase
from dnntrain.tune.budget import Budget
from dnntrain.tune.lines import Line
from dnntrain.tune.probe import Probe, ProbeRequest, describe_probe, run_probe
from dnntrain.tune.remedies import CALLBACKS, COMMUNICATION, COMPUTE, DATA, ROWS, SMALL_BATCH, list_remedies
from dnntrain.tune.roofline import measure_session
from dnntrain.tune.speed_settings import describe_measured_steps
from dnntrain.tune.step_time import Rate, StepTime
from dnntrain.utils.machine_load import describe_current_load

if TYPE_CHECKING:
    from dnntrain.run.session import Session

Say = Callable[[str], None]

#: The file of a run directory that keeps the result.
WHY_FILE = "why.json"

#: Seconds of the first measurement at most, and of a probe at least.
_MEASURE_S = 6.0
_LEAST_PROBE_S = 3.0
#: A phase of this share of a step is its bottleneck.
_LARGE_SHARE = 0.3
_CALLBACK_SHARE = 0.15
_COMMUNICATION_SHARE = 0.15
#: A larger batch must gain this factor for the batch to be called small.
_SMALL_BATCH_GAIN = 1.2


@dataclass(frozen=True)
class TriedRemedy:
    """A remedy, the bottleneck that it removes, and its measured gain."""

    kind: str
    probe: Probe
    without: str = ""


@dataclass(frozen=True)
class WhyResult:
    """The time of a step, its bottleneck, and the gains of remedies.

    bottleneck  data, callbacks, rows, communication, small batch or compute
    remedies    those that were tried, the largest gain first
    untried     those for which there was no time
    note        a warning that the machine was busy; empty if it was not
    """

    step: StepTime
    rates: tuple[Rate, ...]
    bottleneck: str
    remedies: tuple[TriedRemedy, ...]
    untried: tuple[str, ...]
    took_s: float
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain values, as why.json has it."""
        return {**asdict(self), "phases": self.step.list_groups()}


def explain_step_time(session: Session, line: Line, budget_s: float, say: Say) -> WhyResult:
    """Measure the phases of a step, then try remedies until `budget_s` seconds are spent."""
    note = describe_current_load() or ""
    if note:
        say(f"{note}. The figures below are rough; repeat on an idle machine")
    started, budget = time.monotonic(), Budget(budget_s)
    say(f"measuring the phases of {describe_measured_steps(session)}")
    step, rates = measure_session(session, min(_MEASURE_S, budget_s / 4))
    remedies = list_remedies(session, step)
    tried: list[TriedRemedy] = []
    for number, remedy in enumerate(remedies):
        if not budget.has_time:
            break
        probe_s = max(_LEAST_PROBE_S, budget.left_s / (2 * (len(remedies) - number)))
        request = ProbeRequest(line, (), remedy.words, remedy.grade, remedy.without, keeps_callbacks=True)
        with budget.attempt():
            probe = run_probe(request, probe_s, session.plan.total_steps, session, budget.left_s)
        tried.append(TriedRemedy(remedy.kind, probe, remedy.without))
        say(f"{number + 1} of {len(remedies)}  {' '.join(remedy.words)}: {describe_probe(tried[-1].probe)}")
    tried.sort(key=lambda item: -(item.probe.ratio or (0.0,))[0])
    untried = tuple(" ".join(remedy.words) for remedy in remedies[len(tried) :])
    bottleneck = name_bottleneck(step, tried)
    return WhyResult(step, rates, bottleneck, tuple(tried), untried, time.monotonic() - started, note)


def name_bottleneck(step: StepTime, tried: Sequence[TriedRemedy]) -> str:
    """Return the word for the part of a step that is worth changing first."""
    shares = {
        DATA: step.get_share(phase.DATA, phase.HOST_TO_DEVICE) / _LARGE_SHARE,
        CALLBACKS: step.get_share(phase.CALLBACKS) / _CALLBACK_SHARE,
        ROWS: step.get_share(phase.EVENTS) / _LARGE_SHARE,
        COMMUNICATION: step.get_share(phase.COMMUNICATION) / _COMMUNICATION_SHARE,
    }
    name = max(shares, key=lambda name: shares[name])
    if shares[name] >= 1:
        return name
    batch_gains = [item.probe.ratio[1] for item in tried if item.kind == SMALL_BATCH and item.probe.ratio]
    return SMALL_BATCH if max(batch_gains, default=0.0) >= _SMALL_BATCH_GAIN else COMPUTE


def select_best(result: WhyResult, count: int = 3) -> list[TriedRemedy]:
    """Return the remedies that make a step faster, at most `count`, the largest gain first."""
    return [item for item in result.remedies if item.probe.verdict == "faster"][:count]
