"""Throughput of training with the resident pipeline against training on one constant batch.

    .venv/bin/python scripts/bench/resident.py [--model small_cnn] [--rounds 7] [--steps 60] [--augment]

Both run the same built trainer in one process and take turns; the ratio of their times per step is printed. The constant
batch costs nothing to prepare: what is above 1 is the whole cost of the pipeline, gathering, augmenting and normalising.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace

from dnntrain.checkpoint.checkpoint_format import Digests
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.protocols import StepBatch
from dnntrain.run.session import open_session
from dnntrain.training.cadence import Cadence
from dnntrain.training.loop import Loop, run_loop
from dnntrain.training.trainer import build_trainer
from dnntrain.training.trainer_parts import TrainerOutputs
from dnntrain.utils.world import World


class Constant:
    """Always the same batch."""

    def __init__(self, batch: StepBatch) -> None:
        self.batch = batch

    def take(self, step: int) -> StepBatch:
        return self.batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small_cnn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--augment", action="store_true", help="crop and flip too")
    arguments = parser.parse_args()
    loop = built(arguments.model, arguments.augment)
    constant = replace(loop, batches=Constant(copied(loop.batches.take(0))))
    ratios = []
    for _ in range(arguments.rounds):
        constant_s = timed(constant, arguments.steps)
        ratios.append(timed(loop, arguments.steps) / constant_s)
    spread = " ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f"{arguments.model}: resident / constant batch: {statistics.median(ratios):.3f} (rounds: {spread})")


def built(model: str, augment: bool) -> Loop:
    """The loop of a run on Fashion-MNIST with nothing between the steps."""
    words = ["data=fashion_mnist", f"model={model}", "train.batch_size=128", "train.duration=1000ep"]
    words += ["augment.crop.padding=2", "augment.flip.probability=0.5"] if augment else []
    with tempfile.TemporaryDirectory() as folder:
        config = decode_config(compose([*words, f"run_dir={folder}"]))
        session = open_session(config, World())
        trainer = build_trainer(session.setup, Digests("", ""), TrainerOutputs(warn=print))
    return replace(trainer.loop, cadence=Cadence([], 1 << 40))


def copied(batch: StepBatch) -> StepBatch:
    """The batch in memory of its own."""
    return StepBatch([replace(micro, inputs=micro.inputs.clone()) for micro in batch.micro_batches], batch.examples)


def timed(loop: Loop, steps: int) -> float:
    """Seconds of `steps` more steps."""
    loop.progress.total_steps = loop.progress.step + steps
    started = time.perf_counter()
    run_loop(loop)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
