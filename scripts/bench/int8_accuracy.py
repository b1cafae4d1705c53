"""What 8-bit integers cost in accuracy on Fashion-MNIST: the table of docs/benchmarks.md.

    python scripts/bench/int8_accuracy.py --seeds 3 [--models resnet20 …] [--folder FOLDER]

For each model and seed a float run is trained; from its weights a second float run ("float") and one with quant=qat ("qat") go on for the
same epoch, at the same rates. Compared on the test split: the float run, its onnx_int8 export with calibrated ranges (int8_static), the qat
run, which rounds, and its onnx_int8 export.

With --folder runs are kept, and a second call goes on where the first was stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import dnntrain
from dnntrain.cli.main import main as command

COMMON = (
    "data=fashion_mnist",
    "data.val_fraction=0.02",
    "train.max_examples=12000",
    "train.batch_size=64",
    "train.cpu_threads=1",
    "reg=[]",
    "sched=linear",
    "eval.every=99ep",
    "eval.run_test=false",
    "checkpoint.every=99ep",
    "log.report=false",
)
MODELS = {
    "resnet20": ("model=resnet20", "optim=muon"),
    "mobilenet_v3_small": ("model=mobilenet_v3_small", "optim=muon"),
    "vit_tiny": ("model=vit_tiny", "model.embed_dim=96", "model.depth=6", "optim=adamw"),
}
FIRST = ("precision=bf16", "train.duration=5ep", "sched.warmup=15%")
RATES = {"muon": ("optim.lr=0.1", "optim.adam_lr=3e-3"), "adamw": ("optim.lr=1e-3",)}
#: A twentieth of them, as for a network that is trained.
THEN = {"muon": ("optim.lr=0.005", "optim.adam_lr=1.5e-4"), "adamw": ("optim.lr=5e-5",)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--folder", type=Path, help="where runs are kept; without it they are not")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder.absolute() if arguments.folder else Path(temporary)
        found: dict[str, list[dict[str, float]]] = {}
        for seed in range(arguments.seeds):
            for model in arguments.models:
                found.setdefault(model, []).append(figures(folder, model, seed))
    print("| model | float | int8_static | qat | qat, exported |\n|---|---|---|---|---|")
    for model, rows in found.items():
        print(f"| `{model}` | {' | '.join(cell(rows, name) for name in rows[0])} |")


def figures(folder: Path, model: str, seed: int) -> dict[str, float]:
    """Test accuracy in percent by name, of one model and seed."""
    words = (*MODELS[model], f"seed={seed}")
    optimizer = next(word.removeprefix("optim=") for word in words if word.startswith("optim="))
    base = trained(folder / f"{model}-base-{seed}", *words, *FIRST, *RATES[optimizer])
    then = (*words, *THEN[optimizer], "precision=fp32", "train.duration=1ep", f"init_from={base}")
    plain = trained(folder / f"{model}-float-{seed}", *then)
    rounded = trained(folder / f"{model}-qat-{seed}", *then, "quant=qat")
    return {
        "float": accuracy(plain),
        "int8_static": accuracy(exported(plain)),
        "qat": accuracy(rounded),
        "qat, exported": accuracy(exported(rounded)),
    }


def cell(rows: list[dict[str, float]], name: str) -> str:
    """Accuracies by seed, and the mean difference to the float run in points."""
    listed = ", ".join(f"{row[name]:.2f}" for row in rows)
    if name == "float":
        return listed
    return f"{listed} ({statistics.mean(row[name] - row['float'] for row in rows):+.2f})"


def trained(run: Path, *words: str) -> Path:
    """The run, trained unless it is there already."""
    result = run / "result.json"
    if not result.exists() or json.loads(result.read_text())["status"] != "done":
        before_s = time.process_time()
        dnntrain.train(*COMMON, *words, f"run_dir={run}", display="quiet")
        print(f"{run.name}: {time.process_time() - before_s:.1f} s of processor time", flush=True)
    return run


def exported(run: Path) -> Path:
    """The run's onnx_int8 export; a large loss of accuracy is to be seen in the table, so none is refused."""
    path = run / "exports" / "onnx_int8"
    if not (path / "manifest.json").exists():
        code = command(["export", str(run), "--format=onnx_int8", "quant.max_metric_drop=0.99"])
        if code:
            raise SystemExit(code)
    return path


def accuracy(path: Path) -> float:
    """Test accuracy in percent of a run or an export, kept beside it."""
    figure = path.with_name(path.name + "-test.txt")
    if not figure.exists():
        figure.write_text(f"{100 * float(dnntrain.evaluate(path)['accuracy'])}\n")
    return float(figure.read_text())


if __name__ == "__main__":
    main()
