"""Compare the speed of two lines: `python -m dnntrain.tune.speed_worker FOLDER`. Only the search starts it."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dnntrain.errors import ConfigError
from dnntrain.tune.blocks import (
    FEWEST_FIRST_STEPS,
    FIRST_STEPS,
    agree,
    compute_block_length,
    fill_cache_of_run,
    make_first_steps,
)
from dnntrain.tune.lines import Line
from dnntrain.tune.probe import LEAST_GAIN, REQUEST_FILE, RESULT_FILE, write_failure
from dnntrain.utils.evidence import compute_effect_interval
from dnntrain.utils.explain_error import explain_error
from dnntrain.utils.json_files import read_json, write_json
from dnntrain.utils.processes import die_with_parent
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.config.run_config import RunConfig
    from dnntrain.run.session import Session
    from dnntrain.training.trainer import Trainer

#: Steps by which the length of a block is chosen, and seconds after which they are enough.
_TIMED_STEPS, _TIMED_S = 64, 0.5
#: Pairs of blocks at least and at most; an interval of 95 % that is looked at after each pair needs six.
_MIN_PAIRS, _MAX_PAIRS = 6, 40
#: A probe ends after so many pairs if the new line is slower in each.
_FUTILE_PAIRS = 3


@dataclass
class TimedLine:
    """A trainer that makes its steps when asked; its reading processes are stopped in between.

    Stopped readers take no core from the other line, and prepare no batches that would make the next
    block look faster than it is.
    """

    trainer: Trainer
    steps: Iterator[int]
    threads: int
    examples: int
    device: str
    build_s: float
    losses: list[float] = field(default_factory=list)
    first_steps_s: list[float] = field(default_factory=list)
    readers: frozenset[int] = frozenset()

    @property
    def first_s(self) -> float:
        """Seconds until the end of the first steps, with the time to build the trainer and to read resident data."""
        return self.build_s + sum(self.first_steps_s)

    def choose_block_length(self) -> int:
        """Return the steps of a block, by the steps after the first; some more are made if those were fast."""
        steps_s = self.first_steps_s[1:]
        while len(steps_s) < _TIMED_STEPS and agree(sum(steps_s) < _TIMED_S):
            steps_s.append(self.run(1))
        return agree(compute_block_length(steps_s))

    def make_first_steps(self, count: int | None = None) -> int:
        """Make the first steps and return their number: `count`, or eight, fewer if they are slow."""
        others = _list_children()
        self.first_steps_s = make_first_steps(self.run, count or FIRST_STEPS, count or FEWEST_FIRST_STEPS)
        self.readers = _list_children() - others
        self._signal_readers(signal.SIGSTOP)
        return len(self.first_steps_s)

    def run(self, count: int) -> float:
        """Make `count` steps and return the seconds that they took."""
        from dnntrain.utils.hardware import use_threads

        use_threads(self.threads)
        self._signal_readers(signal.SIGCONT)
        self._synchronize()
        started = time.perf_counter()
        for _ in range(count):
            next(self.steps)
        self._synchronize()
        seconds = time.perf_counter() - started
        self._signal_readers(signal.SIGSTOP)
        return seconds

    def close(self) -> None:
        """End the readers and the trainer: a stopped reader would outlast the request to end, and this process wait."""
        self._signal_readers(signal.SIGCONT)
        self.trainer.close()

    def _synchronize(self) -> None:
        from dnntrain.tune.attainable import make_synchronizer

        make_synchronizer(self.device)()

    def _signal_readers(self, number: int) -> None:
        for pid in self.readers:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _list_children() -> frozenset[int]:
    return frozenset(child.pid for child in multiprocessing.active_children() if child.pid is not None)


def main() -> int:
    """Write the measurements into the folder that is the argument."""
    return answer_request(measure_lines)


def answer_request(measure: Callable[[Mapping[str, Any]], dict[str, Any]]) -> int:
    """Answer the request in the folder that is the argument; an error that is not a bug is written there too."""
    die_with_parent()
    folder = Path(sys.argv[1])
    request = read_json(folder / REQUEST_FILE)
    try:
        write_json(folder / RESULT_FILE, measure(request))
    except Exception as error:
        explained = explain_error(error)
        if explained is None:
            raise
        write_failure(folder, explained)
    return 0


def measure_probe(session: Session, request: Mapping[str, Any]) -> dict[str, Any]:
    """Do the same as one of several ranks; a line that cannot run is named in the result."""
    try:
        return measure_lines(request, session.world)
    except ConfigError as error:
        return {"error": error.message}


def measure_lines(request: Mapping[str, Any], world: World | None = None) -> dict[str, Any]:
    """Train both lines in turns: A B B A A B …, and return their times and first losses.

    All ranks of `world` make the same steps, as many as the clock of the main rank says. `ratio` is
    [median, low, high], or None with fewer pairs than an interval needs: then the new line lost each of
    the first pairs and was given up (`is_given_up`), or `limit_s` seconds were over.
    """
    limit_at_s = time.perf_counter() + float(request["limit_s"])
    from dnntrain.run.session import open_session

    base, keeps_callbacks = Line.from_json(request["line"]), bool(request["keeps_callbacks"])
    old, new = request["words"]
    configs = base.decode(old), base.decode(new, request["without"])
    with ExitStack() as stack:
        # Neither line pays for the imports, and for files that the system reads for the first time.
        open_session(configs[0], world or World())
        lines = []
        for config in configs:
            lines.append(open_line(config, keeps_callbacks, world or World()))
            stack.callback(lines[-1].close)
        first_steps = lines[0].make_first_steps()
        lines[1].make_first_steps(first_steps)
        first_losses = [list(line.losses[:first_steps]) for line in lines]
        examples = lines[1].examples / lines[0].examples
        ends_early = bool(request["ends_early"])
        times = _time_in_turns(lines, examples, float(request["seconds"]), limit_at_s, ends_early)
    step_s = [statistics.median(values) for values in times]
    startup_s = (lines[1].first_s - first_steps * step_s[1]) - (lines[0].first_s - first_steps * step_s[0])
    return {
        "ratio": list(compare_times(*times, examples)) if len(times[0]) >= _MIN_PAIRS else None,
        "median": compute_median_ratio(*times, examples),
        "pairs": len(times[0]),
        "is_given_up": ends_early and has_lost_first_pairs(*times, examples),
        "step_s": step_s,
        "startup_s": startup_s,
        "losses": first_losses,
    }


def _time_in_turns(
    lines: Sequence[TimedLine], examples: float, seconds: float, limit_at_s: float, ends_early: bool
) -> tuple[list[float], list[float]]:
    """Return the seconds of a step in each block, pair by pair, of both lines.

    It ends as soon as the interval decides, or after `seconds` with the pairs that an interval needs. It
    ends without these pairs if the clock has passed `limit_at_s`, too, or if it `ends_early` and the new
    line lost each of the first pairs.
    """
    counts = [line.choose_block_length() for line in lines]
    deadline = time.perf_counter() + seconds
    times: tuple[list[float], list[float]] = ([], [])
    while len(times[0]) < _MAX_PAIRS:
        for side in (0, 1) if len(times[0]) % 2 == 0 else (1, 0):
            times[side].append(lines[side].run(counts[side]) / counts[side])
        now = time.perf_counter()
        if len(times[0]) < _MIN_PAIRS:
            is_over = now > max(deadline, limit_at_s) or (ends_early and has_lost_first_pairs(*times, examples))
        else:
            ratio = compare_times(*times, examples)
            is_over = is_decided(ratio) or now > deadline
        if agree(is_over):
            break
    return times


def has_lost_first_pairs(old: Sequence[float], new: Sequence[float], examples: float) -> bool:
    """Return whether there are three pairs or more, and the new line was slower in each of the first three.

    The values are as in `compare_times`.
    """
    first = list(zip(old, new, strict=True))[:_FUTILE_PAIRS]
    return len(first) == _FUTILE_PAIRS and all(before * examples < after for before, after in first)


class Ratio(NamedTuple):
    """The median ratio of times, and its interval."""

    median: float
    low: float
    high: float


def compare_times(old: Sequence[float], new: Sequence[float], examples: float) -> Ratio:
    """Return how many times as fast an example of the new line is, with its interval of 95 %.

    `old` and `new` are seconds of a step, pair by pair; `examples` are those of a new step over those of
    an old one. The interval is that of paired differences of logarithms, and valid after any number of
    pairs: the search may stop as soon as it leaves out 1. It is widened to hold the median, which may
    lie outside if the load of the machine changes meanwhile.
    """
    differences = [math.log(before / after * examples) for before, after in zip(old, new, strict=True)]
    interval = compute_effect_interval(differences)
    median = compute_median_ratio(old, new, examples)
    return Ratio(median, min(math.exp(interval.low), median), max(math.exp(interval.high), median))


def is_decided(ratio: Ratio) -> bool:
    """Return whether the interval says that the new line is faster by enough, or slower."""
    return ratio.low > LEAST_GAIN or ratio.high < 1.0


def compute_median_ratio(old: Sequence[float], new: Sequence[float], examples: float) -> float:
    """Return the median over pairs of the ratio of `compare_times`."""
    return statistics.median(before / after * examples for before, after in zip(old, new, strict=True))


def open_line(config: RunConfig, keeps_callbacks: bool, world: World, is_timed: bool = True) -> TimedLine:
    """Build the trainer of a line.

    Raises ConfigError if its steps are to be timed, and its cache of examples cannot be filled.
    """
    from dnntrain.run.scratch import build_scratch_trainer
    from dnntrain.run.session import open_session
    from dnntrain.training.loop import iterate_steps

    started = time.perf_counter()
    session = open_session(config, world)
    losses: list[float] = []

    def record_loss(row: Mapping[str, Any]) -> None:
        if row["split"] == "train" and not keeps_callbacks:
            losses.append(float(row["loss"]))

    first_rows = 0 if keeps_callbacks else FIRST_STEPS
    trainer = build_scratch_trainer(session, record_loss, first_rows, keeps_callbacks)
    fill_cache_of_run(session, must_be_full=is_timed)
    trainer.start_session()
    build_s, plan, steps = time.perf_counter() - started, session.plan, iterate_steps(trainer.loop)
    return TimedLine(trainer, steps, plan.threads, plan.batch_size, session.device, build_s, losses)


if __name__ == "__main__":
    sys.exit(main())
