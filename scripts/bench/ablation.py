"""What each method adds to experiment=fashion_best or costs there: the recipe with one thing changed, at a small budget.

    .venv/bin/python scripts/bench/ablation.py [--width 32] [--steps 844] [--seeds 1] [--only mixup,ema] [--list] [SETTING ...]

Each variant is trained for the same number of steps, or of passes where a step needs two, with one thread, and tested with the weights of
the last step. One Markdown row each: mean test accuracy, its standard deviation over seeds, the difference from the recipe as it is in
points, and processor seconds, those of reading and testing included. Rows come in the order of the table; every one is printed, whether
its method helps or hurts. SETTING ... is laid over every variant, before what is its own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

import dnntrain

#: The recipe has whitening, label smoothing, crops and flips, Muon and a straight fall of the rate; each row changes one thing.
VARIANTS: dict[str, list[str]] = {
    "as it is": [],
    "less whitening": ["reg=[label_smoothing]"],
    "less label smoothing": ["reg=[whitening]"],
    "less crops": ["augment.crop.padding=0"],
    "less crops and flips": ["augment.crop.padding=0", "augment.flip.probability=0"],
    "AdamW for Muon": ["optim=adamw", "optim.lr=3e-3"],
    "SGD for Muon": ["optim=nesterov", "optim.lr=0.1"],
    "cosine for linear": ["sched=cosine", "sched.warmup=10%"],
    "constant rate": ["sched=constant", "sched.warmup=10%"],
    "mixup": ["+augment=[mixup]"],
    "cutmix": ["+augment=[cutmix]"],
    "random_erasing": ["+augment=[random_erasing]"],
    "dropout 0.1 before the head": ["+reg=[dropout]", "reg.dropout.modules=null", "reg.dropout.before_modules=head"],
    "drop_path": ["+reg=[drop_path]"],
    "dropblock": ["+reg=[dropblock]"],
    "weight_decay": ["optim.decoupled_weight_decay=true", "optim.weight_decay=0.05"],
    "l1": ["+reg=[l1]"],
    "adaptive grad_clip": ["+reg=[grad_clip]", "reg.grad_clip.mode=adaptive"],
    "ema": ["+average=[ema]"],
    "swa": ["+average=[swa]", "average.swa.every=100step"],
    "sam": ["+reg=[sam]"],
}
TWO_PASSES = {"sam"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="laid over every variant")
    parser.add_argument("--width", type=int, default=32, help="channels of the first block; the recipe has 64")
    parser.add_argument("--steps", type=int, default=844)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--only", default="", help="names of rows, separated by commas; the recipe as it is always runs"
    )
    parser.add_argument("--list", action="store_true", help="print the rows and their settings, train nothing")
    arguments = parser.parse_args()
    chosen = [name for name in arguments.only.split(",") if name]
    if unknown := set(chosen) - set(VARIANTS):
        parser.error(f"no row is called {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    variants = {name: words for name, words in VARIANTS.items() if not chosen or name in {*chosen, "as it is"}}
    if arguments.list:
        for name, words in variants.items():
            print(f"{name:<28}", *words)
        return
    torch.set_num_threads(1)
    # The first run in a process also pays for what is imported and chosen once.
    run([*arguments.settings, *budget(arguments.width, 2)], 0)
    print("| variant | test accuracy | sd | difference | processor seconds |\n|---|---|---|---|---|")
    base: float | None = None
    for name, words in variants.items():
        steps = arguments.steps // 2 if name in TWO_PASSES else arguments.steps
        runs = [
            run([*arguments.settings, *budget(arguments.width, steps), *words], seed) for seed in range(arguments.seeds)
        ]
        accuracies = [100 * accuracy for accuracy, _ in runs]
        mean = statistics.mean(accuracies)
        base = mean if base is None else base
        spread = f"{statistics.stdev(accuracies):.2f}" if len(runs) > 1 else "–"
        seconds = statistics.mean(seconds for _, seconds in runs)
        print(f"| {name} | {mean:.2f} % | {spread} | {mean - base:+.2f} | {seconds:.1f} |", flush=True)


def budget(width: int, steps: int) -> list[str]:
    length = f"{steps}step"
    return [
        "experiment=fashion_best",
        f"model.stem_channels={width // 4}",
        f"model.widths=[{width},{2 * width},{4 * width}]",
        f"train.duration={length}",
        f"eval.every={length}",
        f"checkpoint.every={length}",
        "eval.weights=last",
        "train.cpu_threads=1",
        "log.report=false",
    ]


def run(words: list[str], seed: int) -> tuple[float, float]:
    """Test accuracy and processor seconds of one run."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = dnntrain.train(*words, f"seed={seed}", f"run_dir={Path(folder) / 'run'}", display="quiet")
    return result["test_accuracy"], time.process_time() - began


if __name__ == "__main__":
    main()
