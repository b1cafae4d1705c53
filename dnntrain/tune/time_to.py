"""Find the settings with which a run reaches a value of a metric sooner.

Settings that keep the numbers need as many steps as the line as it is: it is trained once, until it
reaches the value, and the time of a step decides, with a slow start counted over those steps.
Settings that change the numbers are judged by pairs of runs to the value, which share a seed.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.errors import ConfigError, DnntrainError
from dnntrain.protocols.speed import SpeedAttempt, SpeedGrade
from dnntrain.training.metrics_writer import read_rows
from dnntrain.tune.lines import replace_words
from dnntrain.tune.probe import UNDECIDED, Probe, describe_probe
from dnntrain.tune.speed import (
    Say,
    SpeedRequest,
    SpeedResult,
    list_attempts,
    note_skipped,
    raise_throughput,
)
from dnntrain.tune.speed_settings import has_effect, list_speed_settings
from dnntrain.utils.json_files import read_json
from dnntrain.utils.units import format_seconds, pluralize

if TYPE_CHECKING:
    from dnntrain.run.session import Session
    from dnntrain.tune.goal import Goal

#: Pairs of runs at least and at most; an interval of 95 % that is looked at after each pair needs six.
_MIN_PAIRS, _MAX_PAIRS = 6, 12
#: Seconds between two looks at the rows of a run, and for a run to end after its signal.
_LOOK_S, _END_S = 0.2, 60.0


@dataclass(frozen=True)
class RunToValue:
    """A run that ended when it reached the value, or at its own end.

    steps   optimizer steps up to the value; None: it was not reached
    train_s seconds of training up to the value, without evaluation and saving
    best    the best value on the validation split
    wall_s  seconds of the whole command
    """

    steps: int | None
    train_s: float
    best: float
    wall_s: float


def reduce_time_to(session: Session, request: SpeedRequest, say: Say) -> SpeedResult:
    """Search settings that keep the numbers; with `--allow statistical` also others, by pairs of runs."""
    goal = request.goal
    assert goal.metric is not None
    if not len(session.data.val):
        raise ConfigError(f"--goal {goal} needs the validation split", "use data.val_fraction=0.1")
    say(f"training the line as it is until {goal.metric.name} reaches {goal.value:g}; --budget begins afterwards")
    reference = run_to_value(request, (), session.config.seed)
    if reference.steps is None:
        raise ConfigError(
            f"--goal {goal}: the line as it is reaches {reference.best:.4g} at most",
            f"use --goal time_to={goal.metric.name}:{_round_down(reference.best, goal)}, or a longer train.duration",
        )
    say(f"reached after {pluralize(reference.steps, 'step')}, {format_seconds(reference.train_s)} of training")
    request = replace(request, budget_s=request.choose_budget_s(reference.train_s))
    started = time.monotonic()
    exact = request.allow if request.allow is not SpeedGrade.STATISTICAL else SpeedGrade.ROUNDING
    result = raise_throughput(session, replace(request, allow=exact), say, reference.steps)
    result.details |= {"reference": asdict(reference), "pairs": []}
    if request.allow is SpeedGrade.STATISTICAL:
        settings = [
            setting
            for setting in list_speed_settings(session, request.allow)
            if setting.grade is SpeedGrade.STATISTICAL
        ]
        deadline = started + request.choose_budget_s()
        _judge_by_runs(session, request, list_attempts(settings), reference, result, deadline, say)
    return result


def _round_down(value: float, goal: Goal) -> str:
    """Return a value that a run reached, in three digits, on the side that is reached."""
    assert goal.metric is not None
    text = f"{value:.3g}"
    return text if goal.metric.sign * float(text) <= goal.metric.sign * value else f"{value:.8g}"


def _judge_by_runs(
    session: Session,
    request: SpeedRequest,
    attempts: Sequence[SpeedAttempt],
    reference: RunToValue,
    result: SpeedResult,
    deadline: float,
    say: Say,
) -> None:
    """Train pairs of runs for each setting until the interval of the ratio excludes 1."""
    if attempts:
        pair_s = format_seconds(2 * reference.wall_s)
        say(f"{pluralize(len(attempts), 'setting')} by {_MIN_PAIRS} pairs of runs or more, each about {pair_s}")
    for number, attempt in enumerate(attempts):
        if time.monotonic() > deadline:
            note_skipped(result, attempts[number:], say)
            return
        if not has_effect(attempt.words[0], result.words):
            continue
        words = replace_words(result.words, attempt.words)
        probe, pairs = compare_runs(session.config.seed, request, result.words, words, deadline)
        result.probes.append(probe)
        result.details["pairs"].append({"words": words, "train_s": pairs})
        say(f"{attempt.text}: {describe_probe(probe, result.words)}")
        if probe.verdict == "faster":
            result.words, result.final = words, probe


def compare_runs(
    seed: int, request: SpeedRequest, old: Sequence[str], new: Sequence[str], deadline: float
) -> tuple[Probe, list[tuple[float, float]]]:
    """Return the comparison of two lines by runs to the value, and the seconds of both runs of each pair."""
    from dnntrain.tune.speed_worker import compare_times

    probe = Probe(tuple(new), SpeedGrade.STATISTICAL.value)
    pairs: list[tuple[float, float]] = []
    while len(pairs) < _MAX_PAIRS:
        if time.monotonic() > deadline:
            return replace(
                probe, verdict=f"{UNDECIDED} after {pluralize(len(pairs), 'pair')} of runs: --budget is spent"
            ), pairs
        number = len(pairs)
        order = (0, 1) if number % 2 == 0 else (1, 0)
        runs = {side: run_to_value(request, (old, new)[side], seed + number) for side in order}
        first, second = runs[0], runs[1]
        if first.steps is None or second.steps is None:
            name = "the new line" if second.steps is None else "the old line"
            best = second.best if second.steps is None else first.best
            return replace(probe, verdict=f"{name} reaches {best:.4g} at most with seed={seed + number}"), pairs
        pairs.append((first.train_s, second.train_s))
        if len(pairs) >= _MIN_PAIRS:
            ratio = compare_times([pair[0] for pair in pairs], [pair[1] for pair in pairs], 1.0)
            probe = replace(probe, ratio=(ratio.median, ratio.low, ratio.high))
            if not ratio.low <= 1.0 <= ratio.high:
                return replace(probe, verdict="faster" if ratio.low > 1.0 else "not faster"), pairs
    return replace(probe, verdict=f"{UNDECIDED} after {pluralize(len(pairs), 'pair')} of runs"), pairs


def run_to_value(request: SpeedRequest, words: Sequence[str], seed: int) -> RunToValue:
    """Train the line with `words` in processes of its own, and end it when it reaches the goal."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name) / "run"
        kept = [word for word in request.line.list_words(words) if not word.startswith(("run_dir=", "seed="))]
        command = request.make_training_command((*kept, f"run_dir={folder}", f"seed={seed}", "log.report=false"))
        rows_file = folder / "metrics.jsonl"
        started = time.monotonic()
        messages = Path(name) / "messages.txt"
        with messages.open("w") as stderr:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr)
            try:
                while process.poll() is None and find_first_value(read_rows(rows_file), request.goal)[0] is None:
                    time.sleep(_LOOK_S)
            finally:
                _end_process(process)
        rate = float(read_json(folder / "result.json").get("examples_per_s") or 0.0)
        steps, train_s, best = find_first_value(read_rows(rows_file), request.goal, rate)
        if steps is None and process.returncode:
            text = messages.read_text(encoding="utf-8", errors="replace").strip()
            raise DnntrainError(f"a run to {request.goal} ended with exit code {process.returncode}\n{text}")
        return RunToValue(steps, train_s, best, time.monotonic() - started)


def _end_process(process: subprocess.Popen[bytes]) -> None:
    """End a run; a layout of several ranks ends with its main process."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
            return
        process.kill()
        process.wait()


def find_first_value(
    rows: Sequence[dict[str, Any]], goal: Goal, mean_rate: float = 0.0
) -> tuple[int | None, float, float]:
    """Return the step of the first validation that reaches the goal, the seconds of training, the best value.

    The seconds follow from the examples per second of each row: evaluation does not count. `mean_rate`
    is that of the whole run, for an evaluation before the first row.
    """
    assert goal.metric is not None
    examples, seconds, best = 0, 0.0, float("nan")
    rate = next((row["examples_per_s"] for row in rows if row["split"] == "train"), mean_rate)
    for row in rows:
        if row["split"] not in ("train", "val"):
            continue
        rate = row.get("examples_per_s", rate)
        seconds += (row["examples"] - examples) / rate if rate else 0.0
        examples = row["examples"]
        if row["split"] == "val":
            value = float(row[goal.metric.name])
            best = value if goal.metric.is_better(value, best) else best
            if goal.is_reached(value):
                return int(row["step"]), seconds, best
    return None, seconds, best
