"""Find the settings with which a run reaches a value of a metric sooner.

Settings that keep the numbers need as many steps as the line as it is: it is trained once, until it
reaches the value, and the time of a step decides, with a slow start counted over those steps.
Settings that change the numbers are judged by pairs of runs to the value, which share a seed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
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
from dnntrain.tune.training_process import end_training, read_messages, start_training
from dnntrain.utils.json_files import read_json
from dnntrain.utils.units import format_seconds, pluralize

if TYPE_CHECKING:
    from dnntrain.run.session import Session
    from dnntrain.tune.goal import Goal

#: Pairs of runs at least and at most; an interval of 95 % that is looked at after each pair needs six.
_MIN_PAIRS, _MAX_PAIRS = 6, 12
#: The budget to name for pairs of runs, as a multiple of the time that they need at least.
_SPARE = 1.1
#: Seconds between two looks at the rows of a run.
_LOOK_S = 0.2


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
    budget_s = request.choose_budget_s(reference.train_s)
    attempts: list[SpeedAttempt] = []
    exact = replace(request, budget_s=budget_s)
    if request.allow is SpeedGrade.STATISTICAL:
        settings = list_speed_settings(session, request.allow)
        attempts = list_attempts([setting for setting in settings if setting.grade is SpeedGrade.STATISTICAL])
        exact = replace(exact, allow=SpeedGrade.ROUNDING)
    if attempts:
        # A longer budget is for pairs of runs.
        default_s = replace(request, budget_s=None).choose_budget_s(reference.train_s)
        exact = replace(exact, budget_s=min(budget_s, default_s))
        say(describe_pairs(len(attempts), reference.wall_s, budget_s, default_s))
    deadline = time.monotonic() + budget_s
    result = raise_throughput(session, exact, say, reference.steps)
    result.details |= {"reference": asdict(reference), "pairs": []}
    _judge_by_runs(session, request, attempts, reference, result, deadline, say)
    return result


def describe_pairs(settings: int, run_s: float, budget_s: float, exact_s: float) -> str:
    """Return how long pairs of runs take, and the budget that they need if `budget_s` is too short for all.

    run_s    seconds of a run to the value
    exact_s  seconds that the settings which keep the numbers may take before the pairs
    """
    pairs_s = 2 * _MIN_PAIRS * run_s
    count = pluralize(settings, "setting")
    text = f"{count} with other numbers: {_MIN_PAIRS} pairs of runs or more each, about {format_seconds(pairs_s)}"
    fitting = max(0, int((budget_s - exact_s) / pairs_s))
    if fitting >= settings:
        return text
    needed_s = round(_SPARE * (exact_s + settings * pairs_s))
    return f"{text}; the budget of {format_seconds(budget_s)} is enough for {fitting}: --budget {needed_s}s is for all"


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
    """Train pairs of runs for each setting until the interval of the ratio excludes 1; none that cannot end in time."""
    for number, attempt in enumerate(attempts):
        if time.monotonic() + 2 * _MIN_PAIRS * reference.wall_s > deadline:
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
        words = (*kept, f"run_dir={folder}", f"seed={seed}", "log.report=false")
        rows_file, messages = folder / "metrics.jsonl", Path(name) / "messages.txt"
        started = time.monotonic()
        process = start_training(words, request.config_dir, messages)
        try:
            while process.poll() is None and find_first_value(read_rows(rows_file), request.goal)[0] is None:
                time.sleep(_LOOK_S)
        finally:
            end_training(process)
        rate = float(read_json(folder / "result.json").get("examples_per_s") or 0.0)
        steps, train_s, best = find_first_value(read_rows(rows_file), request.goal, rate)
        if steps is None and process.returncode:
            code = process.returncode
            raise DnntrainError(f"a run to {request.goal} ended with exit code {code}\n{read_messages(messages)}")
        return RunToValue(steps, train_s, best, time.monotonic() - started)


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
