"""Training time to 91 % and 92 % test accuracy on Fashion-MNIST: the textbook run against experiment=fashion_fast.

    .venv/bin/python scripts/bench/time_to_accuracy.py [--epochs 12] [--seeds 3] [--ablation]

The baseline (experiment=fashion_baseline) is trained once, a checkpoint an epoch; its time is that of the first epoch whose test accuracy
reaches the target. The fast run is trained whole for each seed and for each length; its time is that of the whole run. Both are training
time as result.json states it, without evaluation and saving. The fast runs stand before and after the baseline, so that a machine that
changes its speed shows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TARGETS = {0.91: "400step", 0.92: "650step"}

#: Each is the fast run less one ingredient.
ABLATIONS = {
    "as it is": [],
    "AdamW for Muon": ["optim=adamw", "optim.lr=3e-3"],
    "SGD with momentum for Muon": ["optim=sgd", "optim.lr=0.05"],
    "no whitening": ["reg=[label_smoothing]"],
    "whitening not frozen": ["reg.whitening.freeze=false"],
    "no label smoothing": ["reg=[whitening]", "reg.whitening.eps=0.3"],
    "torch's first weights": ["model.init=default"],
    "constant rate": ["sched=constant"],
    "float32": ["precision=fp32"],
    "channels first": ["train.channels_last=off"],
    "streaming pipeline": ["data.pipeline=streaming", "data.num_workers=1"],
    "batch 32": ["train.batch_size=32", "train.duration=1600step"],
    "batch 512": ["train.batch_size=512", "train.duration=100step"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ablation", action="store_true", help="measure the ingredients instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.ablation:
            ablation(Path(folder), arguments.seeds)
        else:
            compare(Path(folder), arguments.epochs, arguments.seeds)


def compare(folder: Path, epochs: int, seeds: int) -> None:
    """Prints the baseline's epochs and both times for each target."""
    fast = {target: fast_runs(folder, steps, range(seeds)) for target, steps in TARGETS.items()}
    baseline = trained(
        folder / "baseline", "experiment=fashion_baseline", f"train.duration={epochs}ep", "checkpoint.keep_last=1000"
    )
    accuracies = accuracy_by_step(folder / "baseline")
    again = fast_runs(folder / "again", TARGETS[0.91], range(1))
    print("baseline, test accuracy after each epoch:", " ".join(f"{value:.4f}" for value in accuracies.values()))
    print(
        f"baseline: {baseline['step_ms']:.2f} ms a step; fast: {fast[0.91][0]['step_ms']:.2f} before, {again[0]['step_ms']:.2f} after"
    )
    for target, results in fast.items():
        seconds = statistics.median(result["train_s"] for result in results)
        values = " ".join(f"{result['test_accuracy']:.4f}" for result in results)
        reached = next((step for step, value in accuracies.items() if value >= target), None)
        base_s = baseline["step_ms"] / 1000 * (reached or baseline["steps"])
        if reached is None:
            print(
                f"{target:.0%}: fast {seconds:.1f} s (test accuracy {values}); the baseline was not there after "
                f"{base_s:.1f} s: more than {base_s / seconds:.1f}x"
            )
            continue
        print(
            f"{target:.0%}: baseline {base_s:.1f} s, fast {seconds:.1f} s (test accuracy {values}): {base_s / seconds:.1f}x"
        )


def ablation(folder: Path, seeds: int) -> None:
    """Prints accuracy and time of the fast run less one ingredient each."""
    for name, overrides in ABLATIONS.items():
        results = [
            trained(
                folder / f"{name}-{seed}".replace(" ", "-").replace("'", ""),
                "experiment=fashion_fast",
                f"seed={seed}",
                *overrides,
            )
            for seed in range(seeds)
        ]
        accuracy = statistics.mean(result["test_accuracy"] for result in results)
        low = min(result["test_accuracy"] for result in results)
        seconds = statistics.median(result["train_s"] for result in results)
        print(
            f"{name:<28} {accuracy:.4f} mean, {low:.4f} least, {seconds:5.1f} s, {results[0]['step_ms']:.2f} ms a step",
            flush=True,
        )


def fast_runs(folder: Path, steps: str, seeds: range) -> list[dict[str, Any]]:
    lengths = [f"train.duration={steps}", f"eval.every={steps}", f"checkpoint.every={steps}"]
    return [
        trained(folder / f"fast-{steps}-{seed}", "experiment=fashion_fast", *lengths, f"seed={seed}") for seed in seeds
    ]


def trained(run_dir: Path, *overrides: str) -> dict[str, Any]:
    """Trains with the real command and returns result.json."""
    command = [
        str(Path(sys.executable).with_name("dnntrain")),
        *overrides,
        f"run_dir={run_dir}",
        "log.report=false",
        "--quiet",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    result: dict[str, Any] = json.loads((run_dir / "result.json").read_text())
    return result


def accuracy_by_step(run_dir: Path) -> dict[int, float]:
    """Test accuracy of every checkpoint of a run, by step."""
    from dnntrain.checkpoint.checkpoint_folder import list_checkpoints
    from dnntrain.checkpoint.read_checkpoint import read_checkpoint
    from dnntrain.config.decode import decode_config
    from dnntrain.config.saved_config import read_saved_config
    from dnntrain.distributed.spmd import SpmdExecutor
    from dnntrain.input.pipeline import read_evaluation_batches
    from dnntrain.input.split import prepare_data
    from dnntrain.nn.shape import ModelShape
    from dnntrain.training.evaluation import evaluate
    from dnntrain.utils.world import World

    config = decode_config(read_saved_config(run_dir))
    dataset = config.data.build()
    data = prepare_data(config, dataset)
    model = config.model.build(ModelShape.from_spec(data.spec))
    outputs = SpmdExecutor(model, lambda outputs, batch: batch.targets, device="cpu").compute_outputs
    index = data.test
    accuracies = {}
    for path in reversed(list_checkpoints(run_dir / "checkpoints")):
        checkpoint = read_checkpoint(path)
        model.load_state_dict(checkpoint.states["model"])
        batches = read_evaluation_batches(
            config.data, dataset, dataset.test, index, batch_size=500, world=World(), device="cpu", channels_last=False
        )
        accuracies[checkpoint.step] = float(
            evaluate(config.task, data.spec, model, outputs, batches, lambda tensor: tensor, "cpu")["accuracy"]
        )
    return accuracies


if __name__ == "__main__":
    main()
