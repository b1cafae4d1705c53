"""Memory and time of a step with a frozen body, beside the estimates of the plan.

    python scripts/bench/freezing.py [OVERRIDE …]

Trains resnet18 on images of 32×32, first all of it, then the head alone, each in a process of its own. The time
of a step is that of the processor, the median over the steps, so that other programs count little.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COMMON = (
    *("data=synthetic", "data.image_size=32", "model=resnet18", "train.batch_size=64", "train.duration=10step"),
    *("train.cpu_threads=1", "precision=fp32", "log.every=1step", "log.report=false", "eval.run_test=false"),
    *("eval.every=100%", "eval.batch_size=32", "augment=[]"),
)
CASES = {"all trained": (), "head alone": ('train.freeze=["*","!head.*"]',)}


def main() -> None:
    """Run both cases and print the table."""
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2:])))
        return
    cases = {}
    for name, words in CASES.items():
        line = [sys.executable, __file__, "--measure", *COMMON, *words, *sys.argv[1:]]
        cases[name] = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
        print(name, cases[name], flush=True)
    whole, head = cases.values()
    for key in whole:
        print(f"{key}: {head[key] / whole[key]:.2f} ×")


def measure(words: list[str]) -> dict[str, Any]:
    """Return the plan's estimates, the measured peak, and the processor time of a step."""
    import dnntrain

    plan = dnntrain.plan(*words)
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        dnntrain.train(
            *words,
            run_dir=Path(folder) / "run",
            display="quiet",
            callbacks=[lambda row: times.append(time.process_time()) if row["split"] == "train" else None],
        )
        result = json.loads((Path(folder) / "run" / "result.json").read_text())
    steps = [after - before for before, after in itertools.pairwise(times[1:-1])]
    return {
        "planned_flops": plan.as_json()["flops_per_step"],
        "step_s": round(statistics.median(steps), 4),
        "planned_mb": result["estimated_memory_mb"],
        "peak_mb": result["peak_memory_mb"],
    }


if __name__ == "__main__":
    main()
