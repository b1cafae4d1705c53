"""Compare seven criteria of structured pruning with two baselines, over ratios and seeds.

    python scripts/bench/pruning_table.py FOLDER [--seeds 6] [--epochs 10] [--tune-epochs 4] [OVERRIDE …]

For each seed a network is trained, cut to 1/2, 1/4 and 1/8 of its FLOPs by each criterion, and trained further.
The baselines are `random`, one of the criteria, and a narrower network of about as many FLOPs that is trained from
its initial weights for the same total compute. Runs that FOLDER has are not repeated. The verdicts compare with
`random` over the seeds, with the exact test of `dnntrain prove`.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

from pruned_accuracy import run_training

from dnntrain.utils.evidence import compute_e_values

CRITERIA = ("random", "magnitude", "taylor", "fpgm", "bn_scale", "lamp", "obd")
FACTORS = (2, 4, 8)
WIDTH = 16


def main() -> None:
    """Train what is missing, and print a table of test accuracies in percent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--tune-epochs", type=int, default=4)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    line = ["model=resnet_cifar", "model.depth=8", "data=digits", "log.report=false", *options.overrides]
    accuracies: dict[tuple[str, int], list[float]] = {}
    for seed in range(options.seeds):
        dense = options.folder / f"dense-{seed}"
        words = [*line, f"seed={seed}"]
        result = run_training(dense, [*words, f"train.duration={options.epochs}ep"])
        accuracies.setdefault(("dense", 1), []).append(result["test_accuracy"])
        for factor in FACTORS:
            for criterion in CRITERIA:
                result = run_training(
                    options.folder / f"{criterion}-{factor}-{seed}",
                    [
                        *words,
                        f"init_from={dense}",
                        f"train.duration={options.tune_epochs}ep",
                        "prune=structured",
                        "prune.at=0%",
                        f"prune.criterion={criterion}",
                        f"prune.ratio={1 - 1 / factor}",
                        "prune.protect=0.02",
                    ],
                )
                accuracies.setdefault((criterion, factor), []).append(result["test_accuracy"])
            width, epochs = round(WIDTH / math.sqrt(factor)), options.epochs * factor + options.tune_epochs
            result = run_training(
                options.folder / f"scratch-{factor}-{seed}",
                [*words, f"model.width={width}", f"train.duration={epochs}ep"],
            )
            accuracies.setdefault(("from scratch", factor), []).append(result["test_accuracy"])
    _print_table(accuracies)


def _print_table(accuracies: dict[tuple[str, int], list[float]]) -> None:
    print(f"dense: {_format(accuracies['dense', 1])}")
    print("| criterion | " + " | ".join(f"1/{factor} of the FLOPs, E against random" for factor in FACTORS) + " |")
    for name in (*CRITERIA, "from scratch"):
        cells = []
        for factor in FACTORS:
            values = accuracies[name, factor]
            differences = [a - b for a, b in zip(values, accuracies["random", factor], strict=True)]
            e_value = compute_e_values(differences)[-1] if any(differences) else 1.0
            cells.append(f"{_format(values)}, {e_value:.1f}")
        print(f"| {name} | " + " | ".join(cells) + " |")


def _format(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2%} ± {spread:.2%}"


if __name__ == "__main__":
    main()
