"""Compare asynchronous successive halving with the whole grid it stops, on 27 points for Fashion-MNIST.

    python scripts/bench/asha.py --folder asha                  # about 15 minutes on two quiet cores
    python scripts/bench/asha.py --folder asha --examples 2000  # shorter

Both sweeps have the same points and seeds. The figures are the share of the epochs that were trained, and the
difference between the best values in units of their noise: the deviation of the best point over further seeds.
The same line continues what was interrupted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

GRID = ("optim.lr=3e-4,1e-3,1e-2", "train.batch_size=32,128,512", "model.hidden=[32],[128],[256,128]")
NOISE_SEEDS = "seed=1,2,3,4"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data-root", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--examples", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=27)
    options = parser.parse_args()
    fixed = (
        *("data=fashion_mnist", f"data.root={options.data_root}", f"train.max_examples={options.examples}"),
        *("model=mlp", f"train.duration={options.epochs}ep", "eval.every=1ep", "checkpoint.every=9ep"),
        *("eval.run_test=false", "log.report=false", "precision=fp32", "train.compile=off"),
    )
    grid = sweep(options.folder / "grid", fixed, GRID)
    stopped = sweep(options.folder / "asha", fixed, GRID, "--search=grid", "--stop-early=asha", "--jobs=1")
    best, best_stopped = (max(rows, key=lambda row: float(row["best"])) for rows in (grid, stopped))
    noise_rows = sweep(options.folder / "noise", (*fixed, *best["overrides"].split()), (NOISE_SEEDS,))
    noise = statistics.stdev(float(row["best"]) for row in noise_rows)
    epochs = [count_epochs(rows) for rows in (grid, stopped)]
    difference = float(best_stopped["best"]) - float(best["best"])
    print(f"grid: {best['best']:.4f} with {best['overrides']} after {epochs[0]:.0f} epochs")
    print(f"asha: {best_stopped['best']:.4f} with {best_stopped['overrides']} after {epochs[1]:.0f} epochs")
    print(
        f"{epochs[1] / epochs[0]:.1%} of the epochs; {difference:+.4f}, {difference / noise:+.1f} deviations of {noise:.4f}"
    )


def sweep(folder: Path, fixed: tuple[str, ...], swept: tuple[str, ...], *options: str) -> list[dict[str, Any]]:
    """Run a sweep, or continue it, and return its rows."""
    command = [sys.executable, "-m", "dnntrain", "-q", "-m", *fixed, *swept, *options, "--json", f"run_dir={folder}"]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        sys.exit(process.returncode)
    answer = json.loads(process.stdout)
    rows: list[dict[str, Any]] = answer if isinstance(answer, list) else answer["trials"]
    return rows


def count_epochs(rows: list[dict[str, Any]]) -> float:
    """Return the epochs that all trials trained, those after the decision to stop included."""
    total = 0.0
    for row in rows:
        lines = (Path(row["run_dir"]) / "metrics.jsonl").read_text().splitlines()
        total += max((json.loads(line).get("epoch") or 0.0 for line in lines), default=0.0)
    return total


if __name__ == "__main__":
    main()
