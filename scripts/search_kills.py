"""Kill a search again and again, and compare it with one that nobody disturbs.

    python scripts/search_kills.py --trials 24 --kills 20

Each trial trains on two processes (DDP). At random times SIGKILL ends the search itself, the agent of a trial
or one of its ranks; the same command then continues. At the end every trial must have the values, status, steps
and digest that it has in the undisturbed search, and no process may be left.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from dnntrain.sweep.processes import find_processes
from dnntrain.utils.json_files import read_json

WORDS = (
    "optim.lr=tag(log,interval(1e-4,1e-1))",
    "sched=cosine,step,linear",
    "model=mlp",
    "train.max_examples=320",
    "train.duration=12ep",
    "checkpoint.every=20step",
    "log.report=false",
    "parallel=ddp",
    "launch.nproc=2",
)


def main() -> int:
    """Run both searches and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the searches are kept; otherwise a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        return compare_searches(folder.absolute(), arguments.trials, arguments.kills, random.Random(arguments.seed))


def compare_searches(folder: Path, trials: int, kills: int, chance: random.Random) -> int:
    """Run a search undisturbed and another with `kills`; return 0 if they are equal."""
    start = time.monotonic()
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    finish(undisturbed, trials)
    seconds = time.monotonic() - start
    print(f"undisturbed: {trials} trials in {seconds:.0f} s", flush=True)
    victims = [disturb(killed, trials, seconds / kills, chance) for _ in range(kills)]
    print(f"SIGKILL: {', '.join(f'{victims.count(kind)} × {kind}' for kind in sorted(set(victims)))}", flush=True)
    finish(killed, trials)
    expected, actual = read_table(undisturbed), read_table(killed)
    differences = [f"{a}\n  instead of\n{b}" for a, b in zip(actual, expected, strict=False) if a != b]
    left = list_trial_processes(killed)
    clashes = [path for path in killed.glob("*/output.txt") if "already in use" in path.read_text(errors="replace")]
    print(*differences, sep="\n")
    print(f"{len(actual)} trials, {len(differences)} differ, {len(left)} processes left, {len(clashes)} port clashes")
    return int(bool(differences or left or clashes) or len(actual) != trials)


def start_search(folder: Path, trials: int) -> subprocess.Popen[bytes]:
    """Start the search, or continue it."""
    options = ("--search=tpe", "--stop-early=asha", f"--trials={trials}", "--jobs=1", "-q")
    command = [sys.executable, "-m", "dnntrain", "-m", *WORDS, f"run_dir={folder}", *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(folder: Path, trials: int) -> None:
    """Run the search to its end."""
    process = start_search(folder, trials)
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(errors.decode(errors="replace"))


def disturb(folder: Path, trials: int, mean_s: float, chance: random.Random) -> str:
    """Continue the search, kill one of its processes after a random time, and return which."""
    process = start_search(folder, trials)
    # The time counts from the first process of a trial: on a busy machine the start takes long.
    while process.poll() is None and not list_trial_processes(folder):
        time.sleep(0.2)
    deadline = time.monotonic() + chance.uniform(0.0, 1.0) * max(mean_s, 8.0)
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    workers = list_trial_processes(folder)
    kind = chance.choice(("search", "process of a trial", "process of a trial"))
    victim = chance.choice(workers) if workers and kind != "search" else process.pid
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    if victim != process.pid:
        # The search notices, and is then killed too: only its own command continues a trial.
        time.sleep(chance.uniform(0.0, 2.0))
        process.kill()
    process.communicate()
    return "search" if victim == process.pid else kind


def list_trial_processes(folder: Path) -> list[int]:
    """Return the processes that run for a trial of the search."""
    return [number for path in folder.glob("*/") for number in find_processes(path)]


def read_table(folder: Path) -> list[dict[str, Any]]:
    """Return what must be equal: each trial's values, status, steps, metrics, and digest of its weights."""
    rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    kept = ("trial", "overrides", "status", "value", "best", "steps")
    digests = [read_json(Path(row["run_dir"]) / "result.json").get("digest") for row in rows]
    return [
        {**{name: row[name] for name in kept}, "digest": digest if row["status"] == "done" else None}
        for row, digest in zip(rows, digests, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
