"""Compare the speed of two lines in a process of its own, and judge the result."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dnntrain.errors import DnntrainError, RankError, Stopped
from dnntrain.protocols.speed import SpeedGrade
from dnntrain.tune.lines import Line
from dnntrain.tune.search import measure_on_ranks
from dnntrain.utils.explain_error import NOT_ENOUGH_MEMORY
from dnntrain.utils.json_files import read_json, write_json
from dnntrain.utils.units import format_seconds, pluralize

if TYPE_CHECKING:
    from dnntrain.run.session import Session

REQUEST_FILE, RESULT_FILE = "request.json", "result.json"

#: The modules of the processes that measure.
WORKERS = {"probe": "dnntrain.tune.speed_worker", "memory": "dnntrain.tune.memory_worker"}

#: Begins the verdict on a setting for which the time did not suffice.
UNDECIDED = "undecided"

#: A setting must make steps faster than this, at the lower end of the interval.
LEAST_GAIN = 1.01
#: Largest relative difference of the first losses for the grade ROUNDING.
_ROUNDING = 1e-5
#: Seconds that the start of a probe may take beyond its time.
_START_S = 300.0


@dataclass(frozen=True)
class Probe:
    """The comparison of a line with a setting to the best line so far.

    words     the overrides that are tried
    grade     how far they change the numbers
    ratio     [median, low, high] of the old time of an example over the new one: above 1 is faster
    startup_s seconds that the new line needs more before its first fast step, as for compiling
    loss_difference  largest relative difference of the first losses
    verdict   "faster", "not faster", "starts too slowly", "other losses", "undecided …", or the reason
              of a failure
    pairs     pairs of blocks that were timed
    """

    words: tuple[str, ...]
    grade: str
    ratio: tuple[float, float, float] | None = None
    startup_s: float = 0.0
    loss_difference: float = 0.0
    verdict: str = ""
    pairs: int = 0


@dataclass(frozen=True)
class ProbeRequest:
    """The two lines of a comparison: `line` with the words `old`, and with the words `new`.

    without          a choice of the old line that the new one lacks, as `reg.sam`
    keeps_callbacks  whether both have the monitors of the run, and rows as often as the run alone; else they
                     have a row for each of the first steps, too, whose losses are compared
    ends_early       whether the comparison may end without an interval if the new line is slower
    """

    line: Line
    old: Sequence[str]
    new: Sequence[str]
    grade: SpeedGrade
    without: str = ""
    keeps_callbacks: bool = False
    ends_early: bool = True

    def as_json(self, seconds: float, limit_s: float) -> dict[str, Any]:
        """Return the request as plain values, for the worker process."""
        return {
            "line": self.line.as_json(),
            "words": [list(self.old), list(self.new)],
            "without": self.without,
            "keeps_callbacks": self.keeps_callbacks,
            "ends_early": self.ends_early,
            "seconds": seconds,
            "limit_s": limit_s,
        }


def run_probe(
    request: ProbeRequest,
    seconds: float,
    total_steps: int | None,
    session: Session | None = None,
    limit_s: float | None = None,
) -> Probe:
    """Compare two lines in processes of their own: a probe without memory ends there.

    It takes about `seconds`, or as long as the pairs of blocks need that an interval is made of. After
    `limit_s` (default: five minutes more than `seconds`) it ends with the pair that it has begun.
    `session` is that of the line as it is; a layout of several ranks is measured on its ranks.
    """
    words, grade = tuple(request.new), request.grade.value
    limit_s = seconds + _START_S if limit_s is None else max(limit_s, seconds)
    measured = measure_apart("probe", request.as_json(seconds, limit_s), limit_s, session)
    if "error" in measured:
        return Probe(words, grade, verdict=format_failure(measured))
    return judge(Probe(words, grade, pairs=measured["pairs"]), measured, total_steps)


def measure_apart(
    kind: Literal["probe", "memory"], request: Mapping[str, Any], seconds: float, session: Session | None
) -> dict[str, Any]:
    """Let a process, or the ranks of a session's layout, measure; return the answer.

    If it fails, the answer has the reason under `error`. It `is_undecided` if another try may succeed:
    the process was killed, did not end in time, or held two lines that do not fit into memory together.
    """
    if session is not None and session.plan.ranks > 1:
        try:
            answer = measure_on_ranks(session, kind, {"request": dict(request)})
        except Stopped:
            raise
        except RankError as error:
            # The cause is on the last line, after a traceback or the stacks of the ranks.
            return _make_open_failure(error.message.strip().splitlines()[-1])
        except DnntrainError as error:
            answer = {"error": error.message}
        return _explain_memory(answer, kind)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_json(folder / REQUEST_FILE, dict(request))
        try:
            process = subprocess.run(
                [sys.executable, "-m", WORKERS[kind], name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                timeout=seconds + _START_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return _make_open_failure("did not end in time")
        measured = read_json(folder / RESULT_FILE)
    if process.returncode < 0:
        return _make_open_failure(f"ended by signal {-process.returncode}, memory may be full")
    return _explain_memory(measured or {"error": (process.stderr.strip().splitlines() or ["no result"])[-1]}, kind)


def _make_open_failure(reason: str) -> dict[str, Any]:
    return {"error": reason, "is_undecided": True}


def _explain_memory(answer: dict[str, Any], kind: Literal["probe", "memory"]) -> dict[str, Any]:
    """Return the answer; a probe that lacked memory held two lines, of which each may fit alone."""
    if kind == "memory" or NOT_ENOUGH_MEMORY not in str(answer.get("error", "")):
        return answer
    return _make_open_failure("both lines together need more memory than there is")


def format_failure(answer: Mapping[str, Any]) -> str:
    """Return the verdict on a line whose measurement failed, from the answer of `measure_apart`."""
    return f"{UNDECIDED if answer.get('is_undecided') else 'cannot run'}: {answer['error']}"


def judge(probe: Probe, measured: Mapping[str, Any], total_steps: int | None) -> Probe:
    """Return the probe with its verdict, from the measurements of the worker process.

    measured  `ratio` [median, low, high] or None without an interval, `median`, the median alone,
              `is_given_up` if the new line lost each of the first pairs, `startup_s`, `step_s` of both
              lines, and the first `losses` of both
    """
    if measured["ratio"] is None:
        verdict = "not faster" if measured["is_given_up"] else UNDECIDED
        after = pluralize(measured["pairs"], "pair")
        return replace(probe, verdict=f"{verdict}: {measured['median']:.2f} × as fast after {after} of blocks")
    first, second = measured["losses"]
    difference = max(
        (abs(new - old) / max(abs(old), 1e-12) for old, new in zip(first, second, strict=True)), default=0.0
    )
    low = measured["ratio"][1]
    # The new line may take fewer steps, of more examples: times are those of a step of the old line.
    saved_s = measured["step_s"][0] * (1 - 1 / measured["ratio"][0])
    startup_s = max(0.0, measured["startup_s"])
    if (probe.grade == "bitwise" and first != second) or (probe.grade == "rounding" and difference > _ROUNDING):
        verdict = "other losses"
    elif low <= LEAST_GAIN:
        verdict = "not faster"
    elif total_steps and startup_s > saved_s * total_steps:
        pays_after = round(startup_s / max(saved_s, 1e-9))
        verdict = f"starts too slowly: pays after {pays_after} steps, and this run has {total_steps}"
    else:
        verdict = "faster"
    return replace(
        probe, ratio=tuple(measured["ratio"]), startup_s=startup_s, loss_difference=difference, verdict=verdict
    )


def describe_probe(probe: Probe, old: Sequence[str] = ()) -> str:
    """Return the ratio to the line with the words `old`, its interval, and the verdict."""
    if probe.ratio is None:
        return probe.verdict
    median, low, high = probe.ratio
    beside = f" as with {' '.join(old)}" if old else ""
    text = f"{median:.2f} × as fast{beside} (from {low:.2f} to {high:.2f}), {probe.verdict}"
    return text + (f", starts {format_seconds(probe.startup_s)} later" if probe.startup_s > 1 else "")


def write_failure(folder: Path, error: DnntrainError) -> None:
    """Write why a line cannot run, for the process that asked."""
    write_json(folder / RESULT_FILE, {"error": error.message})
