"""Accuracy of quantisation-aware training beside that of floats, on the digits: python scripts/bench/qat.py [folder].

For each seed: a float run; a run with quant=qat of the same length from first weights; a third of the length from the float run's; the
integer exports (ONNX Runtime) of the float run by calibration and of the trained ones. Test accuracy in percent.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from dnntrain import evaluate, train
from dnntrain.cli.main import main

SEEDS = (0, 1, 2)
MODELS = {
    "resnet_cifar (depth 8)": ("model=resnet_cifar", "model.depth=8"),
    "mobilenet_v3_small": ("model=mobilenet_v3_small",),
}
COMMON = ("precision=fp32", "log.report=false", "log.every=1ep", "checkpoint.every=100ep")


def trained(folder: Path, *words: str) -> Path:
    train(*COMMON, *words, f"run_dir={folder}", display="quiet")
    return folder


def accuracy(path: Path) -> float:
    return 100 * float(evaluate(str(path), split="test")["accuracy"])


def exported(run: Path) -> Path:
    path = run / "exports" / "onnx_int8"
    assert main(["export", str(run), "--format=onnx_int8", "quant.max_metric_drop=0.99"]) == 0
    return path


def rows(model: str, folder: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        words = (*MODELS[model], f"seed={seed}")
        plain = trained(folder / f"float-{seed}", *words, "train.duration=12ep")
        scratch = trained(folder / f"qat-{seed}", *words, "train.duration=12ep", "quant=qat")
        further = ("train.duration=4ep", "quant=qat", f"init_from={plain}", "optim.lr=3e-4")
        tuned = trained(folder / f"tuned-{seed}", *words, *further)
        for name, run in (("float", plain), ("qat", scratch), ("qat after float", tuned)):
            found.setdefault(name, []).append(accuracy(run))
            found.setdefault(f"{name}, int8 export", []).append(accuracy(exported(run)))
    return found


def show(folder: Path) -> None:
    for number, model in enumerate(MODELS):
        for name, values in rows(model, folder / str(number)).items():
            listed = ", ".join(f"{value:.2f}" for value in values)
            print(f"| `{model}` | {name} | {listed} | {statistics.mean(values):.2f} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        show(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            show(Path(temporary))
