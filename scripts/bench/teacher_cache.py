"""Processor time of an epoch of the student alone, and of the student with a teacher whose outputs are all in the cache.

    python scripts/bench/teacher_cache.py [repetitions]

A resnet56 teaches a resnet20 on 921 images of data=synthetic, on one thread. An epoch is a fifth of the difference between a run of
six epochs and a run of one, in seconds of processor time: other processes on the machine do not count.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

COMMON = (
    "data=synthetic",
    "train.max_examples=1024",
    "train.batch_size=64",
    "train.cpu_threads=1",
    "precision=fp32",
    "eval.run_test=false",
    "eval.every=99ep",
    "log.report=false",
    "--quiet",
)


def main(repetitions: int) -> None:
    """Prints the times of all repetitions, interleaved, and the ratio of the medians."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        teacher = Path(folder) / "teacher"
        cpu_s(teacher, "model=resnet56", "train.duration=1ep")
        cached = ("distill=kd", f"distill.teacher={teacher}", "distill.cache=disk")
        cpu_s(Path(folder) / "filled", "model=resnet20", "train.duration=1ep", *cached)
        epochs: dict[str, list[float]] = {"alone": [], "cached": []}
        for repetition in range(repetitions):
            for name, words in (("alone", ()), ("cached", cached)):
                times = [
                    cpu_s(
                        Path(folder) / f"{name}-{repetition}-{count}",
                        "model=resnet20",
                        f"train.duration={count}ep",
                        *words,
                    )
                    for count in (1, 6)
                ]
                epochs[name].append((times[1] - times[0]) / 5)
    for name, found in epochs.items():
        print(f"{name:7} {'  '.join(f'{time:.3f}' for time in found)} s an epoch")
    print(f"ratio of the medians: {statistics.median(epochs['cached']) / statistics.median(epochs['alone']):.2f}")


def cpu_s(run_dir: Path, *words: str) -> float:
    """Seconds of processor time of one run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "dnntrain", *COMMON, *words, f"run_dir={run_dir}"]
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
