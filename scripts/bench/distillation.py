"""What distillation gives a small student on Fashion-MNIST: the tables of docs/benchmarks.md.

    python scripts/bench/distillation.py --seeds 5 [--folder FOLDER]

A wrn_16_2 is trained once. A small_cnn with 4 and 8 channels is trained alone and with each method, from each seed:
the seed chooses its images, their order and its initialization, so that the runs of one seed differ by the method
only. The evidence is that of `dnntrain prove`: the e-value of the pairs of the method and the student alone; 20
decides. The last row's teacher is another student, of the seed after the last.

With --folder runs are kept, and a second call goes on where the first was stopped.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from pathlib import Path

import dnntrain
from dnntrain.prove.verdict import Rules, judge_differences

COMMON = (
    "data=fashion_mnist",
    "data.val_fraction=0.02",
    "train.max_examples=12000",
    "train.cpu_threads=1",
    "reg=[]",
    "optim=muon",
    "sched=linear",
    "sched.warmup=15%",
    "eval.every=99ep",
    "checkpoint.every=99ep",
    "log.report=false",
)
TEACHER = ("model=wrn_16_2", "train.batch_size=128", "train.duration=4ep")
STUDENT = (
    "model=small_cnn",
    "model.channels=[4,8]",
    "model.hidden=16",
    "precision=fp32",
    "train.batch_size=64",
    "train.duration=5ep",
)
TAUGHT = ("distill.cache=disk",)
EQUAL = "kd by an equal"
METHODS: dict[str, tuple[str, ...]] = {
    "alone": (),
    "kd": ("distill=kd",),
    "dkd": ("distill=dkd",),
    "dkd, beta=1": ("distill=dkd", "distill.beta=1"),
    "dist": ("distill=dist", "data.mix_block_size=32"),
    "rkd": ("distill=rkd", "data.mix_block_size=32"),
    EQUAL: ("distill=kd",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where runs are kept; without it they are not")
    arguments = parser.parse_args()
    if arguments.folder:
        show(arguments.folder.absolute(), arguments.seeds)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            show(Path(temporary), arguments.seeds)


def show(folder: Path, seeds: int) -> None:
    """Trains what is not there yet, and prints the table; accuracies in percent of the test split."""
    teacher = accuracy(folder / "teacher", *TEACHER, "seed=0")
    equal = accuracy(folder / f"alone-{seeds}", *STUDENT, f"seed={seeds}")
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        for name, words in METHODS.items():
            source = folder / (f"alone-{seeds}" if name == EQUAL else "teacher")
            taught = (*TAUGHT, f"distill.teacher={source}", f"distill.cache_dir={source}-outputs") if words else ()
            run = folder / f"{re.sub('[^a-z0-9]+', '_', name)}-{seed}"
            found.setdefault(name, []).append(accuracy(run, *STUDENT, *words, *taught, f"seed={seed}"))
    print(f"Teacher {teacher:.2f} %; the equal {equal:.2f} %; mean and standard deviation over {seeds} seeds.\n")
    print("| | test accuracy | by seed | gain | e-value | share of the gap |\n|---|---|---|---|---|---|")
    for name, values in found.items():
        print(row(name, values, found["alone"], teacher))


def row(name: str, values: list[float], alone: list[float], teacher: float) -> str:
    """A row of the table: gain over `alone` in points, e-value and verdict of the pairs, share of the way from it to the teacher."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    start = (
        f"| {name} | {statistics.mean(values):.2f} ± {spread:.2f} | {', '.join(f'{value:.2f}' for value in values)} |"
    )
    if values is alone:
        return f"{start} – | – | – |"
    gain = statistics.mean(values) - statistics.mean(alone)
    verdict = judge_differences([value - base for value, base in zip(values, alone, strict=True)], Rules())
    share = "–" if name == EQUAL else f"{gain / (teacher - statistics.mean(alone)):.0%}"
    return f"{start} {gain:+.2f} | {verdict.e_value:.3g} ({verdict.verdict}) | {share} |"


def accuracy(run: Path, *words: str) -> float:
    """Test accuracy in percent of a run, which is trained unless its figure is there already."""
    figure = run.with_suffix(".txt")
    if not figure.exists():
        before_s = time.process_time()
        result = dnntrain.train(*COMMON, *words, f"run_dir={run}", display="quiet")
        value = 100 * float(result["test_accuracy"])
        figure.write_text(f"{value}\n")
        print(f"{run.name}: {value:.2f} %, {time.process_time() - before_s:.1f} s of processor time", flush=True)
    return float(figure.read_text())


if __name__ == "__main__":
    main()
