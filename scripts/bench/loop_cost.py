"""Cost of the training loop per step, beside a loop written by hand, Lightning and accelerate.

    .venv/bin/python -m pip install --group bench
    .venv/bin/python scripts/bench/loop_cost.py [--model mlp|small_cnn] [--rounds 5]

Each contender is a whole command, started anew, that trains a short and a long run; the cost of a step is the slope
between the two, so that start, evaluation and the end cancel. Contenders take turns within each round; medians over
rounds are printed as ratios to the raw loop.
All train the same network on Fashion-MNIST with the same fused optimizer, batch 128, in float32.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = {"mlp": (2000, 12000), "small_cnn": (20, 180)}
BATCH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(STEPS), default="mlp")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contenders", default="raw,dnntrain,lightning,accelerate")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        {"raw": train_raw, "lightning": train_lightning, "accelerate": train_accelerate}[arguments.run](
            arguments.model, arguments.steps
        )
        return
    compare(arguments.model, arguments.rounds, arguments.contenders.split(","))


def compare(model: str, rounds: int, contenders: list[str]) -> None:
    """Prints the cost per step of each contender, and its ratio to the raw loop, round by round."""
    short, long = STEPS[model]
    costs: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in contenders:
            seconds = {steps: timed(name, model, steps) for steps in (short, long)}
            costs[name].append((seconds[long] - seconds[short]) / (long - short))
    print(f"{model}, batch {BATCH}, {rounds} rounds, steps {short} and {long}")
    for name in contenders:
        ratios = [cost / raw for cost, raw in zip(costs[name], costs[contenders[0]], strict=True)]
        print(
            f"{name:<11} {1e6 * statistics.median(costs[name]):9.1f} us/step   "
            f"{statistics.median(ratios):5.3f}x {contenders[0]}   (rounds: {' '.join(f'{ratio:.3f}' for ratio in ratios)})"
        )


def timed(name: str, model: str, steps: int) -> float:
    """Wall seconds of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        completed = subprocess.run(command(name, model, steps, folder), capture_output=True, text=True, cwd=folder)
        seconds = time.perf_counter() - started
    if completed.returncode:
        sys.exit(f"{name} failed:\n{completed.stdout[-1000:]}{completed.stderr[-2000:]}")
    return seconds


def command(name: str, model: str, steps: int, folder: str) -> list[str]:
    """The command line of a contender. dnntrain draws its progress bar on a terminal, as for a person."""
    if name != "dnntrain":
        return [sys.executable, __file__, f"--model={model}", f"--run={name}", f"--steps={steps}"]
    overrides = [
        "data=fashion_mnist",
        f"model={model}",
        *(["model.hidden=[64]"] if model == "mlp" else []),
        "optim=adamw",
        "sched=constant",
        "reg=[]",
        "precision=fp32",
        f"train.batch_size={BATCH}",
        f"train.duration={steps}step",
        "eval.every=1000ep",
        "checkpoint.every=1000ep",
        "log.report=false",
        f"run_dir={folder}/run",
    ]
    line = " ".join([str(Path(sys.executable).with_name("dnntrain")), *(f"'{item}'" for item in overrides)])
    return ["script", "--quiet", "--return", "--command", line, "/dev/null"]


def images_and_labels():  # type: ignore[no-untyped-def]
    """Fashion-MNIST's training split as normalised floats [60000, 1, 28, 28] and labels, as a hand-written script would hold it."""
    import gzip

    import numpy as np
    import torch

    folder = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
    images = np.frombuffer(gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    pixels = torch.from_numpy(images.reshape(-1, 1, 28, 28).astype(np.float32) / 255)
    return (pixels - 0.286) / 0.353, torch.from_numpy(labels.astype(np.int64))


def network(name: str):  # type: ignore[no-untyped-def]
    from torch import nn

    if name == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(9216, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def train_raw(model_name: str, steps: int) -> None:
    """The loop that a person writes by hand: shuffled indices into tensors, no framework, nothing logged."""
    import torch
    from torch.nn.functional import cross_entropy

    images, labels = images_and_labels()
    model = network(model_name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    step = 0
    while step < steps:
        order = torch.randperm(len(images))
        for start in range(0, len(images) - BATCH + 1, BATCH):
            index = order[start : start + BATCH]
            loss = cross_entropy(model(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step == steps:
                break


class Shuffled:
    """An iterable of batches by indexing, so that every contender reads its data as cheaply as the raw loop."""

    def __init__(self, images, labels) -> None:  # type: ignore[no-untyped-def]
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images) // BATCH

    def __iter__(self):  # type: ignore[no-untyped-def]
        import torch

        order = torch.randperm(len(self.images))
        for start in range(0, len(self) * BATCH, BATCH):
            index = order[start : start + BATCH]
            yield self.images[index], self.labels[index]


def train_lightning(model_name: str, steps: int) -> None:
    """Lightning's Trainer with its progress bar and CSV logger."""
    import lightning
    import torch
    from torch.nn.functional import cross_entropy

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network(model_name)

        def training_step(self, batch, _):  # type: ignore[no-untyped-def]
            images, labels = batch
            loss = cross_entropy(self.network(images), labels)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):  # type: ignore[no-untyped-def]
            return torch.optim.AdamW(self.parameters(), lr=1e-3, fused=True)

    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=lightning.pytorch.loggers.CSVLogger("."),
        log_every_n_steps=20,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), Shuffled(*images_and_labels()))


def train_accelerate(model_name: str, steps: int) -> None:
    """accelerate's usual loop."""
    import torch
    from accelerate import Accelerator
    from torch.nn.functional import cross_entropy

    accelerator = Accelerator(cpu=True)
    model = network(model_name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    loader = torch.utils.data.DataLoader(_Indexed(*images_and_labels()), batch_size=None, sampler=None)  # type: ignore[arg-type, var-annotated]
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    step = 0
    while step < steps:
        for images, labels in loader:
            with accelerator.accumulate(model):
                loss = cross_entropy(model(images), labels)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            step += 1
            if step == steps:
                break


class _Indexed:
    """Whole batches by number, for a DataLoader without collation."""

    def __init__(self, images, labels) -> None:  # type: ignore[no-untyped-def]
        import torch

        self.images, self.labels = images, labels
        self.order = torch.randperm(len(images))

    def __len__(self) -> int:
        return len(self.images) // BATCH

    def __getitem__(self, number: int):  # type: ignore[no-untyped-def]
        index = self.order[number * BATCH : (number + 1) * BATCH]
        return self.images[index], self.labels[index]


if __name__ == "__main__":
    main()
