"""Measure the time that checkpoints add to a run: written between steps, and in the background.

    python scripts/bench/checkpoint_stall.py                      # about 10 minutes on two cores
    python scripts/bench/checkpoint_stall.py --steps 40 --rounds 2 --model mlp

Each round trains the same run without checkpoints, with them, and with `checkpoint.background=true`, in
changing order. The figures are the time of a run over that of the run without, as the median with its interval,
and the share of a run's time in which the steps wait for a checkpoint.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dnntrain import train
from dnntrain.bench.statistics import compute_ratio_interval
from dnntrain.training.checkpointer import BackgroundCheckpointer, Checkpointer
from dnntrain.utils.machine_load import describe_current_load

VARIANTS = {
    "none": ("checkpoint.every=1000000step",),
    "between steps": (),
    "background": ("checkpoint.background=true",),
}


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    line = [
        f"model={options.model}",
        f"data={options.data}",
        f"train.duration={options.steps}step",
        f"checkpoint.every={options.every}step",
        "eval.every=1000000step",
        "eval.run_test=false",
        "log.report=false",
        "train.compile=off",
    ]
    if (load := describe_current_load()) is not None:
        print(f"{load}. The figures are rough")
    waits: list[float] = []
    for kind in (Checkpointer, BackgroundCheckpointer):
        setattr(kind, "_save", measure_wait(kind._save, waits))  # noqa: B010
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    shares: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(options.rounds):
        names = list(VARIANTS) if number % 2 == 0 else list(reversed(VARIANTS))
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                waits.clear()
                words = [word for word in line if name != "none" or not word.startswith("checkpoint.every")]
                result = train(*words, *VARIANTS[name], f"run_dir={Path(folder) / 'run'}", display="quiet")
                times[name].append(float(result["wall_s"]))
                shares[name].append(sum(waits) / float(result["train_s"]))
    for name in ("between steps", "background"):
        ratio = compute_ratio_interval(times[name], times["none"])
        print(f"{name}: {ratio.median:.3f} × the time without checkpoints ({ratio.low:.3f} to {ratio.high:.3f})")
        print(
            f"  steps wait {statistics.median(shares[name]):.2%} of the time ({', '.join(f'{x:.2%}' for x in shares[name])})"
        )


def measure_wait(save: Callable[[Any, int], None], waits: list[float]) -> Callable[[Any, int], None]:
    """Return a method that saves and adds the seconds that the steps wait for it."""

    def save_measured(checkpointer: Any, step: int) -> None:
        start = time.perf_counter()
        save(checkpointer, step)
        waits.append(time.perf_counter() - start)

    return save_measured


if __name__ == "__main__":
    main()
