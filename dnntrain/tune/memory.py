"""Find the settings with which a run needs less memory, and is not much slower.

The peak of each line is measured in a process of its own, which does nothing besides. Its speed is
compared with that of the line as it is, as for the goal of throughput.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dnntrain.errors import DnntrainError
from dnntrain.tune.budget import Budget
from dnntrain.tune.lines import replace_words
from dnntrain.tune.probe import ProbeRequest, format_failure, measure_apart, run_probe
from dnntrain.tune.speed import (
    LEAST_PROBE_S,
    Say,
    SpeedRequest,
    SpeedResult,
    find_farthest_grade,
    list_attempts,
    note_skipped,
)
from dnntrain.tune.speed_settings import list_memory_settings
from dnntrain.utils.units import format_seconds, pluralize

if TYPE_CHECKING:
    from dnntrain.run.session import Session

#: A setting must save this share of the peak, and twice the difference between two measurements of the line.
_LEAST_SAVING = 0.01


@dataclass(frozen=True)
class MemoryProbe:
    """The comparison of a line with settings to the line as it is.

    peak_mb  peak memory without and with the settings
    ratio    [median, low, high]: how many times as fast the line is with them; None: not measured
    verdict  "less memory", "not less memory", "too slow", "other losses", "undecided …" or the reason of a
             failure
    """

    words: tuple[str, ...]
    grade: str
    peak_mb: tuple[float, float] | None = None
    ratio: tuple[float, float, float] | None = None
    verdict: str = ""


def reduce_memory(session: Session, request: SpeedRequest, say: Say) -> SpeedResult:
    """Try the settings one after the other; each must need less memory than the best line so far."""
    budget_s = request.choose_budget_s()
    budget, result = Budget(budget_s), SpeedResult()
    attempts = list_attempts(list_memory_settings(session, request.allow))
    say(f"trying {pluralize(len(attempts), 'setting')} in about {format_seconds(budget_s)}")
    peaks: list[float] = []
    for _ in range(2):
        peak = _measure_peak(session, request, [])
        if isinstance(peak, str):
            raise DnntrainError(f"the peak memory of the line as it is cannot be measured: {peak}")
        peaks.append(peak)
    result.details = {"peak_mb": peaks, "max_slowdown": request.max_slowdown}
    noise_mb = 2 * abs(peaks[1] - peaks[0])
    needed = min(peaks) * (1 - _LEAST_SAVING) - noise_mb
    for number, attempt in enumerate(attempts):
        if not budget.has_time:
            note_skipped(result, attempts[number:], say)
            break
        words = replace_words(result.words, attempt.words)
        with budget.attempt():
            probe_request = ProbeRequest(request.line, [], words, attempt.grade, ends_early=False)
            probe = _try_words(session, probe_request, needed, min(peaks), request, budget.left_s)
        result.probes.append(probe)
        say(f"{number + 1} of {len(attempts)}  {attempt.text}: {describe_memory(probe)}")
        if probe.verdict == "less memory" and probe.peak_mb is not None:
            result.words, result.final = words, probe
            needed = probe.peak_mb[1] * (1 - _LEAST_SAVING) - noise_mb
    if result.final is not None:
        grade = find_farthest_grade(probe for probe in result.probes if probe.verdict == "less memory")
        result.final = replace(result.final, grade=grade.value)
        say(f"all together, beside the line as it is: {describe_memory(result.final)}")  # type: ignore[arg-type]
    return result


def _try_words(
    session: Session,
    probe_request: ProbeRequest,
    needed_mb: float,
    base_mb: float,
    request: SpeedRequest,
    limit_s: float,
) -> MemoryProbe:
    """Measure the peak of the new line and, if it is below `needed_mb`, its speed for `limit_s` seconds at most."""
    words = tuple(probe_request.new)
    probe = MemoryProbe(words, probe_request.grade.value)
    peak = _measure_peak(session, request, words)
    if isinstance(peak, str):
        return replace(probe, verdict=peak)
    probe = replace(probe, peak_mb=(base_mb, peak))
    if peak > needed_mb:
        return replace(probe, verdict="not less memory")
    speed = run_probe(probe_request, LEAST_PROBE_S, None, session, limit_s)
    if speed.ratio is None or speed.verdict == "other losses":
        return replace(probe, ratio=speed.ratio, verdict=speed.verdict)
    is_slow = speed.ratio[0] < 1 - request.max_slowdown
    return replace(probe, ratio=speed.ratio, verdict="too slow" if is_slow else "less memory")


def _measure_peak(session: Session, request: SpeedRequest, words: Sequence[str]) -> float | str:
    """Return the peak memory of a process in MiB, or the verdict on a line without one."""
    answer = measure_apart("memory", {"line": request.line.as_json(), "words": list(words)}, 0.0, session)
    return format_failure(answer) if "error" in answer else float(answer["peak_mb"])


def describe_memory(probe: MemoryProbe) -> str:
    """Return the peaks, the speed and the verdict."""
    parts = []
    if probe.peak_mb is not None:
        parts.append("{:.0f} → {:.0f} MiB".format(*probe.peak_mb))
    if probe.ratio is not None:
        parts.append("{:.2f} × as fast (from {:.2f} to {:.2f})".format(*probe.ratio))
    return ", ".join([*parts, probe.verdict])
