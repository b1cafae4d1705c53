"""Find the settings with which a run trains faster on this machine.

Each setting is tried beside the best line so far, in a process of its own: both trainers take turns
with blocks of steps, so that they share the state of the machine. A setting is kept if the interval
of the ratio of their times excludes 1, and if the losses of the first steps agree as its grade says.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.errors import ConfigError, DnntrainError
from dnntrain.tune.grades import SpeedGrade
from dnntrain.tune.knobs import list_knobs
from dnntrain.utils.files import read_json, write_json
from dnntrain.utils.machine_load import describe_current_load
from dnntrain.utils.units import format_seconds

if TYPE_CHECKING:
    from dnntrain.run.session import Session

REQUEST_FILE, RESULT_FILE = "request.json", "result.json"

#: A setting must make steps faster than this, at the lower end of the interval.
_LEAST_GAIN = 1.01
#: Largest relative difference of the first losses for the grade ROUNDING.
_ROUNDING = 1e-5
#: Seconds of a probe at least, and the share of the budget that is kept for the last measurement.
_LEAST_PROBE_S = 4.0
_FINAL_SHARE = 0.2
#: Seconds that the start of a probe may take beyond its time.
_START_S = 300.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Probe:
    """The comparison of a line with a setting to the best line so far.

    words     the overrides that are tried
    grade     how far they change the numbers
    ratio     [median, low, high] of the old time of a step over the new one: above 1 is faster
    startup_s seconds that the new line needs more before its first fast step, as for compiling
    loss_difference  largest relative difference of the first losses
    verdict   "faster", "not faster", "starts too slowly", "other losses" or the reason of a failure
    """

    words: tuple[str, ...]
    grade: str
    ratio: tuple[float, float, float] | None = None
    startup_s: float = 0.0
    loss_difference: float = 0.0
    verdict: str = ""


@dataclass
class SpeedResult:
    """The settings that were found, the evidence, and the time that the search took."""

    words: list[str] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    final: Probe | None = None
    took_s: float = 0.0
    skipped: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def tune_speed(
    session: Session, overrides: Sequence[str], config_dir: Path | None, budget_s: float, allow: SpeedGrade, say: Say
) -> SpeedResult:
    """Try the settings one after the other, and measure the line that was found once more.

    Raises ConfigError for a run of several processes.
    """
    if session.plan.ranks > 1:
        raise ConfigError(
            "tune speed measures one process", "measure with parallel=single; the settings hold for each rank"
        )
    if (load := describe_current_load()) is not None:
        say(f"{load} The figures below are rough; repeat on an idle machine")
    started = time.monotonic()
    result = SpeedResult()
    knobs = list_knobs(session, allow)
    attempts = [(f"{knob.key}={value}", knob.key, knob.grade) for knob in knobs for value in knob.values]
    say(f"trying {len(attempts)} settings in about {format_seconds(budget_s)}")
    for number, (word, key, grade) in enumerate(attempts):
        left_s = budget_s * (1 - _FINAL_SHARE) - (time.monotonic() - started)
        if left_s <= 0:
            result.skipped = [attempt[0] for attempt in attempts[number:]]
            say(f"the budget is spent; not tried: {' '.join(result.skipped)}")
            break
        kept = [kept_word for kept_word in result.words if not kept_word.startswith(f"{key}=")]
        probe_s = max(_LEAST_PROBE_S, left_s / (len(attempts) - number))
        probe = _probe(overrides, result.words, [*kept, word], config_dir, grade, probe_s, session.plan.total_steps)
        result.probes.append(probe)
        say(f"{number + 1} of {len(attempts)}  {word}: {describe_probe(probe)}")
        if probe.verdict == "faster":
            result.words = [*kept, word]
    if result.words:
        left_s = max(_LEAST_PROBE_S, budget_s - (time.monotonic() - started))
        farthest = max((probe.grade for probe in result.probes if probe.verdict == "faster"), key=_order)
        result.final = _probe(
            overrides, [], result.words, config_dir, SpeedGrade(farthest), left_s, session.plan.total_steps
        )
        say(f"all together: {describe_probe(result.final)}")
        if result.final.verdict != "faster":
            result.words = []
    result.took_s = time.monotonic() - started
    return result


def describe_probe(probe: Probe) -> str:
    """Return the ratio with its interval, and the verdict."""
    if probe.ratio is None:
        return probe.verdict
    median, low, high = probe.ratio
    text = f"{median:.2f} × as fast (from {low:.2f} to {high:.2f}), {probe.verdict}"
    return text + (f", starts {format_seconds(probe.startup_s)} later" if probe.startup_s > 1 else "")


def _order(grade: str) -> int:
    return [item.value for item in SpeedGrade].index(grade)


def _probe(
    overrides: Sequence[str],
    old_words: Sequence[str],
    new_words: Sequence[str],
    config_dir: Path | None,
    grade: SpeedGrade,
    seconds: float,
    total_steps: int | None,
) -> Probe:
    """Compare two lines in a process of its own: a probe without memory ends there."""
    probe = Probe(tuple(new_words), grade.value)
    request = {
        "lines": [[*overrides, *old_words], [*overrides, *new_words]],
        "config_dir": None if config_dir is None else str(config_dir),
        "seconds": seconds,
    }
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_json(folder / REQUEST_FILE, request)
        try:
            process = subprocess.run(
                [sys.executable, "-m", "dnntrain.tune.speed_worker", name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                timeout=seconds + _START_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Probe(probe.words, probe.grade, verdict="did not end in time")
        measured = read_json(folder / RESULT_FILE)
    if process.returncode < 0:
        return Probe(probe.words, probe.grade, verdict=f"ended by signal {-process.returncode}: memory may be full")
    if "error" in measured or not measured:
        reason = measured.get("error") or (process.stderr.strip().splitlines() or ["no result"])[-1]
        return Probe(probe.words, probe.grade, verdict=f"cannot run: {reason}")
    return judge(probe, measured, total_steps)


def judge(probe: Probe, measured: dict[str, Any], total_steps: int | None) -> Probe:
    """Return the probe with its verdict, from the measurements of the worker process.

    measured  `ratio` [median, low, high], `startup_s`, `step_s` of both lines, and the first
              `losses` of both
    """
    first, second = measured["losses"]
    difference = max(
        (abs(new - old) / max(abs(old), 1e-12) for old, new in zip(first, second, strict=True)), default=0.0
    )
    low = measured["ratio"][1]
    old_s, new_s = measured["step_s"]
    startup_s = max(0.0, measured["startup_s"])
    if (probe.grade == "bitwise" and first != second) or (probe.grade == "rounding" and difference > _ROUNDING):
        verdict = "other losses"
    elif low <= _LEAST_GAIN:
        verdict = "not faster"
    elif total_steps and startup_s > (old_s - new_s) * total_steps:
        pays_after = round(startup_s / max(old_s - new_s, 1e-9))
        verdict = f"starts too slowly: pays after {pays_after} steps, and this run has {total_steps}"
    else:
        verdict = "faster"
    return Probe(probe.words, probe.grade, tuple(measured["ratio"]), startup_s, difference, verdict)


def write_failure(folder: Path, error: DnntrainError) -> None:
    """Write why a line cannot run, for the process that asked."""
    write_json(folder / RESULT_FILE, {"error": error.message})


def format_line(result: SpeedResult) -> str:
    """Return the overrides to add; empty if nothing is faster."""
    return " ".join(result.words)


def format_json(result: SpeedResult) -> str:
    """Return the settings with all evidence."""
    return json.dumps({"line": format_line(result), **result.as_json()})
