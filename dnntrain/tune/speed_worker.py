"""Compare the speed of two lines: `python -m dnntrain.tune.speed_worker FOLDER`. Only the search starts it."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dnntrain.errors import ConfigError, DnntrainError
from dnntrain.tune.lines import Line
from dnntrain.tune.probe import REQUEST_FILE, RESULT_FILE, write_failure
from dnntrain.utils.evidence import compute_effect_interval
from dnntrain.utils.json_files import read_json, write_json
from dnntrain.utils.processes import die_with_parent
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.config.run_config import RunConfig
    from dnntrain.run.session import Session
    from dnntrain.training.trainer import Trainer

#: First steps of a line, whose losses are compared and whose time is its start.
FIRST_STEPS = 8
#: Seconds of a block of steps.
_BLOCK_S = 0.2
#: Pairs of blocks at least and at most; an interval of 95 % that is looked at after each pair needs six.
_MIN_PAIRS, _MAX_PAIRS = 6, 40
#: A trainer of a probe is built for so many steps; it never makes them all.
_STEPS = 1_000_000


@dataclass
class TimedLine:
    """A trainer that makes its steps when asked.

    ahead  steps whose batches may be ready before a block begins: its readers work meanwhile
    """

    trainer: Trainer
    steps: Iterator[int]
    threads: int
    examples: int
    ahead: int
    device: str
    losses: list[float] = field(default_factory=list)
    first_s: float = 0.0

    def run(self, count: int) -> float:
        """Make `count` steps and return the seconds that they took."""
        from dnntrain.utils.hardware import use_threads

        use_threads(self.threads)
        for _ in range(self.ahead):
            next(self.steps)
        started = time.perf_counter()
        for _ in range(count):
            next(self.steps)
        return time.perf_counter() - started


def main() -> int:
    """Write the measurements into the folder that is the argument."""
    return answer_request(measure_lines)


def answer_request(measure: Callable[[Mapping[str, Any]], dict[str, Any]]) -> int:
    """Answer the request in the folder that is the argument; an error is written there too."""
    die_with_parent()
    folder = Path(sys.argv[1])
    request = read_json(folder / REQUEST_FILE)
    try:
        write_json(folder / RESULT_FILE, measure(request))
    except DnntrainError as error:
        write_failure(folder, error)
    return 0


def measure_probe(session: Session, request: Mapping[str, Any]) -> dict[str, Any]:
    """Do the same as one of several ranks; a line that cannot run is named in the result."""
    try:
        return measure_lines(request, session.world)
    except ConfigError as error:
        return {"error": error.message}


def measure_lines(request: Mapping[str, Any], world: World | None = None) -> dict[str, Any]:
    """Train both lines in turns: A B B A A B …, and return their times and first losses.

    All ranks of `world` make the same steps, as many as the clock of the main rank says.
    """
    from dnntrain.tune.step_time import agree

    base, keeps_callbacks = Line.from_json(request["line"]), bool(request["keeps_callbacks"])
    old, new = request["words"]
    configs = base.decode(old), base.decode(new, request["without"])
    lines = [open_line(config, keeps_callbacks, world or World()) for config in configs]
    examples = lines[1].examples / lines[0].examples
    for line in lines:
        line.first_s = line.run(FIRST_STEPS)
    first_losses = [list(line.losses[:FIRST_STEPS]) for line in lines]
    counts = [agree(max(1, round(_BLOCK_S / max(line.run(3) / 3, 1e-6)))) for line in lines]
    deadline = time.perf_counter() + float(request["seconds"])
    times: tuple[list[float], list[float]] = ([], [])
    ratio = Ratio(1.0, 0.0, math.inf)
    while len(times[0]) < _MAX_PAIRS:
        for side in (0, 1) if len(times[0]) % 2 == 0 else (1, 0):
            times[side].append(lines[side].run(counts[side]) / counts[side])
        if len(times[0]) < _MIN_PAIRS:
            continue
        ratio = compare_times(*times, examples)
        if agree(not ratio.low <= 1.0 <= ratio.high or time.perf_counter() > deadline):
            break
    for line in lines:
        line.trainer.close()
    step_s = [sorted(values)[len(values) // 2] for values in times]
    startup_s = (lines[1].first_s - FIRST_STEPS * step_s[1]) - (lines[0].first_s - FIRST_STEPS * step_s[0])
    return {
        "ratio": list(ratio),
        "step_s": step_s,
        "startup_s": startup_s,
        "losses": first_losses,
    }


class Ratio(NamedTuple):
    """The median ratio of times, and its interval."""

    median: float
    low: float
    high: float


def compare_times(old: Sequence[float], new: Sequence[float], examples: float) -> Ratio:
    """Return how many times as fast an example of the new line is, with its interval of 95 %.

    `old` and `new` are seconds of a step, pair by pair; `examples` are those of a new step over those of
    an old one. The interval is that of paired differences of logarithms, and valid after any number of
    pairs: the search may stop as soon as it leaves out 1.
    """
    differences = [math.log(before / after * examples) for before, after in zip(old, new, strict=True)]
    interval = compute_effect_interval(differences)
    return Ratio(*(math.exp(value) for value in (statistics.median(differences), interval.low, interval.high)))


def open_line(config: RunConfig, keeps_callbacks: bool, world: World) -> TimedLine:
    """Build the trainer of a line."""
    from dnntrain.input.streaming import PREFETCHED
    from dnntrain.input.worker_replies import choose_worker_count
    from dnntrain.run.scratch import build_scratch_trainer
    from dnntrain.run.session import open_session
    from dnntrain.training.loop import iterate_steps

    session = open_session(config, world)
    losses: list[float] = []

    def record_loss(row: Mapping[str, Any]) -> None:
        if row["split"] == "train" and not keeps_callbacks:
            losses.append(float(row["loss"]))

    trainer = build_scratch_trainer(session, _STEPS, record_loss, keeps_callbacks)
    trainer.start_session()
    plan = session.plan
    ahead = 0 if plan.data.resident else PREFETCHED * choose_worker_count(config.data.num_workers, 1)
    return TimedLine(trainer, iterate_steps(trainer.loop), plan.threads, plan.batch_size, ahead, session.device, losses)


if __name__ == "__main__":
    sys.exit(main())
