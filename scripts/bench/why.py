"""Plant six bottlenecks, and compare the gain that `dnntrain why` measures with that of real runs.

    python scripts/bench/why.py                                       # about 20 minutes
    python scripts/bench/why.py --only callback --budget 10 --seconds 1

For each case: the bottleneck that `why` names, its best remedy of that kind, the gain that its probe measured, and
the gain of two real runs in the order A B B A, as examples_per_s of result.json. The case of bf16 is left out on a
processor without it. The machine must be idle: the script says if it is not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnntrain.tune.lines import Line
from dnntrain.utils.hardware import probe_hardware
from dnntrain.utils.machine_load import describe_current_load

SMALL = ("data=digits", "model=mlp", "precision=fp32", "train.compile=off")

#: Seconds for which the planted code sleeps, in each image and in each step.
SLEEP_S = 0.002

TRANSFORM = f"""
import time

def wait(image, generator):
    time.sleep({SLEEP_S})
    return image
"""

METHOD = f"""
import time
from dataclasses import dataclass

from dnntrain.protocols import Hooks, RegChoice


@dataclass(frozen=True)
class Sleeper(RegChoice):
    \"\"\"Sleep after each step.\"\"\"

    def build(self, context):
        return Hooks(after_step_hooks=(lambda step: time.sleep({10 * SLEEP_S}),))
"""


@dataclass(frozen=True)
class Case:
    """A planted bottleneck: its name for `why`, and the line."""

    kind: str
    words: tuple[str, ...]


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one case: data, worker, batch, bf16, bucket, callback")
    parser.add_argument("--budget", type=float, default=120.0)
    parser.add_argument("--seconds", type=float, default=15.0, help="training time of a real run")
    options = parser.parse_args()
    if (load := describe_current_load()) is not None:
        print(f"note: {load}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_code(folder)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        for label, case in list_cases(folder).items():
            if options.only in (None, label):
                print(f"{label}: {compare(case, folder, options.budget, options.seconds)}", flush=True)


def list_cases(folder: Path) -> dict[str, Case]:
    """Return the cases by name; bf16 only if this processor computes it fast."""
    waiting = ("augment=[custom]", f"augment.custom.file={folder / 'waiting.py'}", "data.pipeline=streaming")
    cases = {
        "data": Case("data", (*SMALL, *waiting, "data.num_workers=0")),
        "worker": Case("data", (*SMALL, *waiting, "data.num_workers=1")),
        "batch": Case("small batch", (*SMALL, "train.batch_size=4")),
        "bf16": Case("compute", (*SMALL, "model.hidden=[2048,2048]", "train.batch_size=512")),
        "bucket": Case(
            "communication",
            (*SMALL, "model.hidden=[2048,2048]", "parallel=ddp", "launch.nproc=2", "parallel.bucket_size_mb=1000"),
        ),
        "callback": Case("callbacks", (*SMALL, "reg=[sleeper]")),
    }
    if not probe_hardware("cpu").fast_bf16_feature:
        print("bf16: left out, since this processor does not compute it fast")
        del cases["bf16"]
    return cases


def write_code(folder: Path) -> None:
    """Write the transform and the method that sleep; the method is a plug-in."""
    files = {
        "waiting.py": TRANSFORM,
        "planted/__init__.py": "",
        "planted/reg/__init__.py": "",
        "planted/reg/sleeper.py": METHOD,
        "planted/conf/reg/sleeper.yaml": "# @package reg.sleeper\n# Sleep after each step.\nname: sleeper\n",
        "planted-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n",
        "planted-1.0.dist-info/entry_points.txt": "[dnntrain.plugins]\nplanted = planted\n",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def compare(case: Case, folder: Path, budget_s: float, seconds: float) -> str:
    """Return the bottleneck, the remedy, and both gains of a case."""
    result = json.loads(run(["why", *case.words, "--budget", str(budget_s), "--json", "-q"]))
    named = f"named {result['bottleneck']!r}" + ("" if result["bottleneck"] == case.kind else f", not {case.kind!r}")
    remedies = [item for item in result["remedies"] if item["kind"] == case.kind and item["probe"]["ratio"]]
    if not remedies:
        return f"{named}; no remedy was measured: give a larger --budget"
    best = max(remedies, key=lambda item: item["probe"]["ratio"][0])
    predicted = best["probe"]["ratio"][0]
    words = Line(case.words).list_words(best["probe"]["words"], best["without"])
    steps = max(20, round(seconds / result["step"]["seconds"]))
    sizes = [int(word.partition("=")[2]) for word in best["probe"]["words"] if word.startswith("train.batch_size=")]
    larger = sizes[0] / result["step"]["examples"] if sizes else 1.0
    lines = (case.words, steps), (tuple(words), max(20, round(steps * predicted / larger)))
    rates: tuple[list[float], list[float]] = ([], [])
    for number, side in enumerate((0, 1, 1, 0)):
        rates[side].append(train(lines[side][0], lines[side][1], folder / f"run-{number}")["examples_per_s"])
    measured = statistics.mean(rates[1]) / statistics.mean(rates[0])
    text = f"{' '.join(best['probe']['words'])} gains {predicted:.2f} × by the probe, {measured:.2f} × in real runs"
    return f"{named}; {text} ({100 * (predicted / measured - 1):+.0f} %)"


def train(words: tuple[str, ...], steps: int, folder: Path) -> dict[str, Any]:
    """Train a run of `steps` steps in a new folder and return result.json."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        run_dir = Path(name) / "run"
        settings = [f"train.duration={steps}step", f"run_dir={run_dir}", "log.report=false", "eval.every=100%"]
        run(["train", *words, *settings, "-q"])
        result: dict[str, Any] = json.loads((run_dir / "result.json").read_text())
        return result


def run(arguments: list[str]) -> str:
    """Run a command of dnntrain and return its output; end with its message if it fails."""
    done = subprocess.run([sys.executable, "-m", "dnntrain", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


if __name__ == "__main__":
    main()
