"""Speed beside busy processes: the default against today's alternatives.

    .venv/bin/python scripts/bench/busy_machine.py [--loads 0,1,2,4] [--rounds 3] [--seconds 2] [--kinds train,eval,ddp2]
    .venv/bin/python scripts/bench/busy_machine.py --model model=resnet20 train.batch_size=128

Contenders are processes that stay alive and take turns, forwards and backwards, so that each meets the same neighbours:

    default      what dnntrain does by itself
    spinning     OpenMP's own default: all cores, threads that spin for milliseconds
    one thread   train.cpu_threads=1
    passive      all cores, OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0

Each turn trains a fixed time and counts steps (`train`) or evaluations of one that evaluates after each step (`eval`), or times the
steps of two ranks (`ddp2`). Printed are the medians as ratios to `spinning` with the same number of busy processes, and the speed of
`default` as a share of the best. The busy processes end with this one, whatever ends it: each looks for its parent all the time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Name → (variables, overrides). 300,000 is the spin count of GNU's OpenMP where nothing is set.
CONTENDERS: dict[str, tuple[dict[str, str], list[str]]] = {
    "default": ({}, []),
    "spinning": ({"GOMP_SPINCOUNT": "300000"}, ["train.cpu_threads={all}"]),
    "one thread": ({"GOMP_SPINCOUNT": "300000"}, ["train.cpu_threads=1"]),
    "passive": ({"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}, ["train.cpu_threads={all}"]),
}

#: Kind → overrides of its runs.
KINDS = {
    "train": ["eval.every=1000ep"],
    "eval": ["eval.every=1step"],
    "ddp2": ["eval.every=1000ep", "parallel=ddp", "launch.nproc=2"],
}

_BUSY = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(100_000):
        pass
"""

_CLOCK_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", default="0,1,2,4", help="numbers of busy processes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="training time of a turn")
    parser.add_argument("--kinds", default="train,eval,ddp2")
    parser.add_argument("--ddp-steps", type=int, default=200, help="steps of a run of ddp2")
    parser.add_argument("--model", nargs="*", default=[], help="overrides of every run")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        answer()
        return
    with ExitStack() as stack:
        contenders = {name: stack.enter_context(Contender(name)) for name in CONTENDERS}
        for contender in contenders.values():
            contender.speed([*arguments.model, "train.duration=1step"])
        for kind in arguments.kinds.split(","):
            # Ranks cannot end after a number of seconds, since each has its own clock.
            duration = f"{arguments.ddp_steps}step" if kind == "ddp2" else f"{arguments.seconds}s"
            words = [*KINDS[kind], *arguments.model, f"train.duration={duration}"]
            for load in map(int, arguments.loads.split(",")):
                print(f"{kind:<6} {load} busy  {compare(contenders, words, load, arguments.rounds)}", flush=True)


def compare(contenders: dict[str, Contender], words: list[str], load: int, rounds: int) -> str:
    """A line of ratios, measured beside `load` busy processes."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    with ExitStack() as stack:
        for _ in range(load):
            stack.enter_context(Busy())
        for number in range(rounds):
            for name in list(contenders)[:: 1 if number % 2 == 0 else -1]:
                speeds[name].append(contenders[name].speed(words))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    cells = [
        f"{name} {medians[name] / medians['spinning']:.2f} "
        f"({min(values) / medians['spinning']:.2f}–{max(values) / medians['spinning']:.2f})"
        for name, values in speeds.items()
    ]
    return "  ".join([*cells, f"default/best {medians['default'] / max(medians.values()):.2f}"])


class Busy:
    """A process that keeps a core busy until it is closed, or until this process is gone."""

    def __enter__(self) -> Busy:
        self._process = subprocess.Popen([sys.executable, "-c", _BUSY, str(os.getpid())])
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


class Contender:
    """A process that trains on request, in the environment of the contender `name`."""

    def __init__(self, name: str) -> None:
        self._variables, self._words = CONTENDERS[name]

    def __enter__(self) -> Contender:
        kept = {name: value for name, value in os.environ.items() if name not in _CLOCK_VARIABLES}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--child"],
            env={**kept, "PYTHONPATH": str(ROOT), **self._variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def speed(self, words: list[str]) -> float:
        """Steps or evaluations of a run with the overrides `words`, each second."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        ranks = 2 if "launch.nproc=2" in words else 1
        cores = max(1, len(os.sched_getaffinity(0)) // ranks)
        self._process.stdin.write(json.dumps([*words, *(word.format(all=cores) for word in self._words)]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit("a contender has ended")
        return float(line)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def answer() -> None:
    """Train with each line of overrides on stdin, and write the speed to stdout, until stdin ends."""
    from dnntrain import train

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    fixed = ["checkpoint.every=1000ep", "log.report=false", "eval.run_test=false"]
    for line in sys.stdin:
        words = json.loads(line)
        with tempfile.TemporaryDirectory() as folder:
            result = train(*words, *fixed, f"run_dir={folder}/run", display="quiet")
            rows = [json.loads(row) for row in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
        split = "val" if "eval.every=1step" in words else "train"
        last = [row for row in rows if row["split"] == split][-1]
        print(last["step"] / last["wall_s"] if last["wall_s"] else result["examples_per_s"], file=replies, flush=True)


if __name__ == "__main__":
    main()
