"""Measure the cost of sweeps: the time until 1,000 trials are checked, and the time that a sweep adds to a trial.

    python scripts/bench/sweep_overhead.py --trials 50 --queued 1000

Trials are runs of about a second. The bare trial is the time that its own process measures from the opened
session to its result (`wall_s`); beside it stands the time of the loop alone (`train_s`). Run it on a machine
that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = ("model=mlp", "train.max_examples=1000", "log.report=false", "eval.run_test=false")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--queued", type=int, default=1000)
    parser.add_argument("--duration", default="120step", help="length of a trial")
    arguments = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory() as folder:
        measure_start(Path(folder), arguments.queued)
        measure_queue(Path(folder), arguments.queued)
        measure_trials(Path(folder), arguments.trials, arguments.duration)


def make_swept_words(count: int) -> tuple[str, str]:
    """Return the words of `count` trials: five seeds of each learning rate."""
    return f"optim.lr=range(0.001,{0.001 * (count // 5) + 0.0005:.4f},0.001)", "seed=1,2,3,4,5"


def measure_start(folder: Path, count: int) -> None:
    """Print the time of `--dry-run` for many trials: everything up to the first trial, and the status of all."""
    for name, words in (
        ("one trial", ("optim.lr=0.001,0.002",)),
        (f"{count} trials", make_swept_words(count)),
    ):
        for launch in ("launch=local", "launch=slurm"):
            seconds = min(run(folder / "queued", *words, launch, "--dry-run")[0] for _ in range(3))
            print(f"{name} with {launch}: start and status in {seconds:.2f} s")


def measure_queue(folder: Path, count: int) -> None:
    """Print the time until the first job is submitted, and that of the same command again, which shows the status.

    Two scripts stand in for Slurm's commands: their own time is not measured here.
    """
    tools = folder / "tools"
    tools.mkdir()
    write_tool(
        tools / "sbatch",
        f"test -e {tools}/first || date +%s.%N >{tools}/first; echo . >>{tools}/jobs; wc -l <{tools}/jobs",
    )
    write_tool(tools / "squeue", f"seq 1 {count} | sed 's/$/ PENDING/'")
    os.environ["PATH"] = f"{tools}{os.pathsep}{os.environ['PATH']}"
    words = (*make_swept_words(count), "launch=slurm")
    started = time.time()
    seconds, rows = run(folder / "submitted", *words)
    first_s = float((tools / "first").read_text()) - started
    status_s = min(run(folder / "submitted", *words)[0] for _ in range(3))
    assert len(rows) == count == len((tools / "jobs").read_text().split())
    print(
        f"{count} jobs: the first is submitted after {first_s:.2f} s, all after {seconds:.2f} s; status in {status_s:.2f} s"
    )


def write_tool(path: Path, text: str) -> None:
    """Write a shell script that can be called."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def measure_trials(folder: Path, count: int, duration: str) -> None:
    """Print the time of a sweep per trial, against the time that its trials take by themselves."""
    words = (f"seed=range(0,{count})", f"train.duration={duration}", "--jobs=1")
    seconds, rows = run(folder / "short", *words)
    results = [json.loads((Path(row["run_dir"]) / "result.json").read_text()) for row in rows]
    assert [result["status"] for result in results] == ["done"] * count
    loop, bare = (statistics.fmean(result[name] for result in results) for name in ("train_s", "wall_s"))
    print(f"{count} trials: {seconds / count:.2f} s each; by themselves {bare:.2f} s, their loops {loop:.2f} s")
    print(f"added to a trial: {seconds / count - bare:.2f} s; to its loop: {seconds / count - loop:.2f} s")


def run(folder: Path, *words: str) -> tuple[float, list[dict[str, str]]]:
    """Run a sweep; return its time and the rows that it prints."""
    command = [sys.executable, "-m", "dnntrain", "-q", "-m", *WORDS, *words, "--json", f"run_dir={folder}"]
    start = time.perf_counter()
    process = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(process.stderr)
    answer = json.loads(process.stdout)
    return seconds, answer if isinstance(answer, list) else answer["trials"]


if __name__ == "__main__":
    main()
