"""Cut resnet20 on Fashion-MNIST to half of its FLOPs, and compare its test accuracy with the whole network's.

    python scripts/bench/pruned_accuracy.py FOLDER [--seeds 6] [--epochs 5] [--tune-epochs 4] [--no-further] [OVERRIDE …]

For each seed a network is trained (`whole`). It is cut and trained further, with the whole network as its teacher
(`cut`); `further` is trained for as long without a cut, unless --no-further leaves it out. The verdicts are those of
`dnntrain prove` with a margin of 0.3 points. Runs that FOLDER has are not repeated, and the same line continues after
an interruption.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dnntrain import train
from dnntrain.pipeline.settings import merge_words
from dnntrain.prove.verdict import Rules, judge_differences
from dnntrain.utils.json_files import read_json

COMMON = (
    "data=fashion_mnist",
    "model=resnet20",
    "optim=muon",
    "sched=linear",
    "sched.warmup=10%",
    "augment=[crop,flip]",
    "augment.crop.padding=2",
    "reg=[]",
    "train.batch_size=128",
    "train.cpu_threads=1",
    "eval.every=1ep",
    "checkpoint.every=1ep",
    "log.report=false",
)
CUT = ("prune=structured", "prune.ratio=0.5", "prune.at=0%")
MARGIN = 0.003


def main() -> None:
    """Train what is missing, and print a table of test accuracies in percent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--tune-epochs", type=int, default=4)
    parser.add_argument("--no-further", action="store_true")
    options, overrides = parser.parse_known_args()
    folder = options.folder.absolute()
    accuracies: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        words = (*merge_words([COMMON, overrides]), f"seed={seed}")
        whole = folder / f"whole-{seed}"
        tuning = (f"init_from={whole}", "optim.lr=0.05", f"train.duration={options.tune_epochs}ep")
        teaching = ("distill=kd", f"distill.teacher={whole}", "distill.temperature=2")
        lines = {
            "whole": (f"train.duration={options.epochs}ep",),
            "cut": (*tuning, *teaching, *CUT),
        }
        if not options.no_further:
            lines["further"] = (*tuning, *teaching)
        for name, line in lines.items():
            run = folder / f"{name}-{seed}"
            accuracies.setdefault(name, []).append(float(run_training(run, (*words, *line))["test_accuracy"]))
    print_table(accuracies)
    print(f"\nThe cut of seed 0: {read_cut(folder / 'cut-0')}")


def run_training(run: Path, words: Sequence[str]) -> Any:
    """Return the result of a run, which is trained or resumed unless it is done."""
    saved = read_json(run / "result.json")
    if saved.get("status") == "done":
        return saved
    print(run.name, file=sys.stderr, flush=True)
    return train(*words, f"run_dir={run}", display="quiet")


def read_cut(run: Path) -> str:
    """Return the sizes before and after the cut of a run, as its log of events has them."""
    events = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return next(str(event["reason"]) for event in events if event.get("event") == "pruned")


def print_table(accuracies: dict[str, list[float]]) -> None:
    """Print the mean and the seeds of each variant, and its verdict against the whole network."""
    print("| | test accuracy, % | by seed | to `whole`, points | e-value |\n|---|---|---|---|---|")
    whole = accuracies["whole"]
    for name, values in accuracies.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        cells = [f"{100 * statistics.mean(values):.2f} ± {100 * spread:.2f}"]
        cells += [", ".join(f"{100 * value:.2f}" for value in values)]
        if name == "whole":
            cells += ["–", "–"]
        else:
            differences = [value - base for value, base in zip(values, whole, strict=True)]
            verdict = judge_differences(differences, Rules(margin=MARGIN))
            low, high = (100 * bound for bound in (verdict.interval.low, verdict.interval.high))
            cells += [f"{100 * verdict.mean_difference:+.2f} ({low:+.2f} to {high:+.2f})"]
            cells += [f"{verdict.e_value:.3g} ({verdict.verdict})"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
