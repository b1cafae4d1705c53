"""Ask whether two sets of runs differ that are the same thing from other seeds: docs/benchmarks.md.

    python scripts/bench/no_effect.py FOLDER [--pairs 20] [--divisions 1000]

A small network learns the digits from 2 * pairs seeds. The first half is A, the second half B, and `dnntrain prove`'s
rules look at the evidence after each pair. Then the runs are divided at random so many times; the divisions share
their runs, so the share of wrong verdicts is an estimate, not a test.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import dnntrain
from dnntrain.utils.evidence import compute_e_values

ALPHA = 0.05
RUN = (
    *("data=digits", "model=mlp", "model.hidden=[32]", "train.duration=3ep", "train.cpu_threads=1"),
    *("eval.every=99ep", "checkpoint.every=99ep", "log.report=false"),
)


def main() -> None:
    """Print the verdict of the first division, and how often each verdict comes in random ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--divisions", type=int, default=1000)
    arguments = parser.parse_args()
    values = [measure_accuracy(arguments.folder.absolute(), seed) for seed in range(2 * arguments.pairs)]
    print(f"accuracy {100 * min(values):.2f} to {100 * max(values):.2f} %; seeds in order: {judge(values)}")
    draw = random.Random(0)
    verdicts = Counter(judge(draw.sample(values, len(values))) for _ in range(arguments.divisions))
    print(
        f"{arguments.divisions} random divisions: " + ", ".join(f"{name} {count}" for name, count in verdicts.items())
    )


def measure_accuracy(folder: Path, seed: int) -> float:
    """Return the test accuracy of a run, which is trained unless its figure is there."""
    figure = folder / f"{seed}.txt"
    if not figure.exists():
        result = dnntrain.train(*RUN, f"seed={seed}", f"run_dir={folder / str(seed)}", display="quiet")
        figure.write_text(f"{result['test_accuracy']}\n")
    return float(figure.read_text())


def judge(values: Sequence[float]) -> str:
    """Return the verdict on the second half of `values` against the first."""
    half = len(values) // 2
    differences = [b - a for a, b in zip(values[:half], values[half:], strict=True)]
    evidence = compute_e_values(differences, "symmetric")
    decided_at = next((number for number, value in enumerate(evidence, 1) if value >= 1 / ALPHA), None)
    if decided_at is None:
        return "undecided"
    return "better" if sum(differences[:decided_at]) > 0 else "worse"


if __name__ == "__main__":
    main()
