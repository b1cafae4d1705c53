"""The best learning rate of a GPT at several widths, with both parametrizations.

    .venv/bin/python scripts/bench/width_transfer.py [--text FILE] [--widths 64,128,256,512] [--steps 300] [--seeds 1] [--threads 1]
    .venv/bin/python scripts/bench/width_transfer.py --only mup --base 64 --widths 512 --powers 9,8,7,6    # some runs alone

Every run has 2 layers, 4 heads, context 64 and batch 12, AdamW without decay, a warm-up and a cosine. The rates are powers of 2. A row is
a width, a column a rate, a cell the mean validation loss in nats; the best of a row is marked. With `model.parametrization=mup` the marks
should lie within a factor of 2 of each other, with `standard` they move to lower rates.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path

import dnntrain
from dnntrain.errors import DivergedError


def measure_loss(words: list[str], folder: Path) -> float:
    """Return the validation loss of a run; infinity if it diverges."""
    try:
        dnntrain.train(*words, f"run_dir={folder}", display="quiet")
    except DivergedError:
        return math.inf
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return float(next(row["loss"] for row in reversed(rows) if row["split"] == "val"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--widths", default="64,128,256,512")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--powers", default="11,10,9,8,7,6,5,4", help="n for each rate of 2^-n")
    parser.add_argument("--only", choices=("standard", "mup"), help="one parametrization")
    parser.add_argument("--base", type=int, help="model.base_dim of mup; default: the first width")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    data = ["data=python_library"] if arguments.text is None else ["data=text", f"data.path={arguments.text}"]
    widths = [int(width) for width in arguments.widths.split(",")]
    rates = [2.0 ** -int(power) for power in arguments.powers.split(",")]
    shared = ["task=language_model", "task.sample_tokens=0", *data, "data.context=64", "train.batch_size=12"]
    shared += ["model=gpt", "model.depth=2", "model.num_heads=4", "optim.weight_decay=0", "precision=fp32"]
    shared += [f"{key}={arguments.steps}step" for key in ("train.duration", "eval.every", "checkpoint.every")]
    shared += [f"sched.warmup={max(1, arguments.steps // 10)}step", "eval.max_examples=1000", "eval.batch_size=125"]
    shared += ["eval.run_test=false", "log.report=false", f"train.cpu_threads={arguments.threads}"]
    with tempfile.TemporaryDirectory() as folder:
        for parametrization in [arguments.only] if arguments.only else ("standard", "mup"):
            print(f"\n{parametrization}\n\n| width | {' | '.join(f'{rate:.5f}' for rate in rates)} |")
            print(f"|---|{'---|' * len(rates)}", flush=True)
            for width in widths:
                base = [f"model.base_dim={arguments.base or widths[0]}"] if parametrization == "mup" else []
                losses = []
                for rate in rates:
                    words = [f"model.embed_dim={width}", f"model.parametrization={parametrization}", f"optim.lr={rate}"]
                    path = Path(folder) / f"{parametrization}-{width}-{rate}"
                    runs = [
                        measure_loss([*shared, *base, *words, f"seed={seed}"], path / str(seed))
                        for seed in range(arguments.seeds)
                    ]
                    losses.append(statistics.fmean(runs))
                cells = [f"**{loss:.3f}**" if loss == min(losses) else f"{loss:.3f}" for loss in losses]
                print(f"| {width} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
