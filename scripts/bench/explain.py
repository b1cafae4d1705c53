"""Check maps on a residual network, a transformer, and scenes with exact masks; print the figures.

python scripts/bench/explain.py --folder runs/explained            # about an hour on two cores
python scripts/bench/explain.py --folder runs/explained --short    # small networks, a few minutes

Runs in the folder that are done are not trained again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from dnntrain.cli.main import main as run_dnntrain

#: The settings of each run: for the figures, and for a short trial.
_FASHION = ("data=fashion_mnist", "log.report=false")
_FAST = ("train.batch_size=64", "optim.lr=0.004", "eval.max_examples=1000")
_SCENES = ("data=scenes", "task=multilabel", "augment.flip.probability=0", "log.report=false")
RUNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "resnet": (
        (*_FASHION, "model=resnet_cifar", "train.duration=10ep"),
        (*_FASHION, *_FAST, "model=resnet_cifar", "model.depth=8", "train.max_examples=3000", "train.duration=5ep"),
    ),
    "vit": (
        (*_FASHION, "model=vit_tiny", "model.depth=6", "model.embed_dim=96", "train.duration=15ep"),
        (
            *("data=digits", "model=vit_tiny", "model.depth=4", "model.embed_dim=48", "model.patch_size=2"),
            *("train.duration=60ep", "train.batch_size=64", "optim.lr=0.002", "augment.crop.padding=0"),
        ),
    ),
    "scenes": (
        (*_SCENES, "model=resnet_cifar", "data.train_size=6000", "train.duration=40ep"),
        (
            *(*_SCENES, "data.pictures=digits", "data.image_size=32", "data.max_objects=2", "data.train_size=3000"),
            *("model=resnet_cifar", "model.depth=8", "train.duration=20ep", "train.batch_size=64", "optim.lr=0.004"),
        ),
    ),
}


def main() -> None:
    """Train the runs that are missing, explain each, and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--count", type=int, default=8)
    arguments = parser.parse_args()
    for name, settings in RUNS.items():
        run = arguments.folder / name
        if not (run / "result.json").is_file():
            _call("train", *settings[arguments.short], f"run_dir={run}", "--quiet")
        _call("explain", str(run), "--count", str(arguments.count))
        print(*format_figures(name, json.loads((run / "explain.json").read_text())), sep="\n", flush=True)


def _call(*words: str) -> None:
    if run_dnntrain(list(words)):
        sys.exit(f"failed: dnntrain {' '.join(words)}")


def format_figures(name: str, values: dict[str, Any]) -> list[str]:
    """Return lines: each check with its interval, and the pointing game."""
    maps = values["maps"]
    lines = [f"{name}: {maps['method']}, {maps['check_examples']} examples"]
    for check in maps["checks"]:
        other = "" if check["against"] is None else f" against {check['against']['mean']:.3f}"
        verdict = "passed" if check["passed"] else "failed"
        lines.append(
            f"  {check['name']}: {check['mean']:.3f} ({check['low']:.3f} to {check['high']:.3f}){other}, {verdict}"
        )
    if (game := values["pointing_game"]) is not None:
        for kind in ("hits", "center", "random", "near_hits", "near_center", "inside"):
            item = game[kind]
            lines.append(f"  pointing, {kind}: {item['mean']:.1%} ({item['low']:.1%} to {item['high']:.1%})")
    return lines


if __name__ == "__main__":
    main()
