"""Trains segmentation, several labels and counting on data=scenes, and compares each network with its int8 export.

    python scripts/bench/scenes.py [--task NAME] [OVERRIDE …]

Each figure is of the test scenes. The export is that of quant=int8_static with onnxruntime.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import dnntrain

COMMON = ("data=scenes", "optim=adamw", "optim.lr=3e-3", "sched.warmup=5%", "eval.every=100%", "log.report=false")
TASKS = {
    "segmentation": ("model=unet", "task.loss=cross_entropy_dice"),
    "multilabel": ("model=resnet20",),
    "regression": ("model=resnet20",),
}


def main() -> None:
    words = sys.argv[1:]
    names = [words.pop(words.index("--task") + 1)] if "--task" in words else list(TASKS)
    words = [word for word in words if word != "--task"]
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            line = (f"task={name}", *COMMON, *TASKS[name], "quant=int8_static", "quant.backend=onnxruntime", *words)
            result = dnntrain.train(*line, f"run_dir={run}", display="quiet")
            (export,) = (run / "exports").iterdir()
            figures = {kind: dnntrain.evaluate(path) for kind, path in (("float", run), ("int8", export))}
        print(f"{name}: {result['train_s']:.0f} s of training")
        for kind, values in figures.items():
            numbers = {key: value for key, value in values.items() if isinstance(value, float)}
            print(f"  {kind}: " + ", ".join(f"{key} {value:.4f}" for key, value in numbers.items()), flush=True)


if __name__ == "__main__":
    main()
