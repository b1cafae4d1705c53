"""Make a built-in pipeline from one command, and compare its final model with its teacher: docs/benchmarks.md.

    python scripts/bench/pipeline.py FOLDER [--name teach_distill_prune_quantize] [--kills 5] [OVERRIDES]

FOLDER/whole is made without interruption. With --kills, FOLDER/killed is made by the same line, whose processes are
killed so many times at random moments of its training; both must end with the same final digest. Then a copy
of the final model is verified, and an altered copy must fail. The same line again uses what is made.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Print the table of models, the ratios to the teacher, and the outcome of each check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default="teach_distill_prune_quantize")
    parser.add_argument("--kills", type=int, default=0)
    arguments, overrides = parser.parse_known_args()
    folder = arguments.folder.absolute()
    command = [sys.executable, "-m", "dnntrain", "pipeline", arguments.name, *overrides, "--json"]
    start_s = time.monotonic()
    made = run_whole([*command, f"run_dir={folder / 'whole'}"])
    wall_s = time.monotonic() - start_s
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"made in {wall_s:.0f} s, {usage.ru_utime + usage.ru_stime:.0f} s of processor time")
    print_points(made["points"])
    if arguments.kills:
        killed_line = [*command, f"run_dir={folder / 'killed'}"]
        train_s = sum({point["stage"]: point["train_s"] for point in made["points"]}.values())
        kill_at_random(killed_line, arguments.kills, train_s)
        again = run_whole(killed_line)
        print(
            f"killed {arguments.kills} times: final digest {'equal' if again['digest'] == made['digest'] else 'DIFFERS'}"
        )
    check_copies(Path(made["certificate"]), folder / "copy")


def run_whole(command: list[str]) -> Any:
    """Run the pipeline to its end, and return its answer."""
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def print_points(points: list[dict[str, Any]]) -> None:
    """Print each model as a multiple of the teacher, the first; an interval holds the ratio of both intervals' ends."""
    teacher = points[0]
    print(
        "| model | accuracy | points to the teacher | smaller | faster, batch 1 | faster, batch 64 |\n|---|---|---|---|---|---|"
    )
    for point in points:
        gain = 100 * (point["metric"][0] - teacher["metric"][0])
        ratios = []
        for batch in ("1", "64"):
            (value, low, high), (own, own_low, own_high) = (item["latency_ms"][batch] for item in (teacher, point))
            ratios.append(f"{value / own:.2f} ({low / own_high:.2f}–{high / own_low:.2f})")
        smaller = teacher["size_bytes"] / point["size_bytes"]
        print(
            f"| {point['name']} | {100 * point['metric'][0]:.2f} % | {gain:+.2f} | {smaller:.1f} | {' | '.join(ratios)} |"
        )


def kill_at_random(command: list[str], kills: int, train_s: float) -> None:
    """Start the pipeline, and kill all of its processes after a random time, several times."""
    draw = random.Random(0)
    for number in range(kills):
        process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_s = draw.uniform(0.2, 1.8) * train_s / (kills + 1)
        try:
            process.wait(wait_s)
            print(f"kill {number + 1}: the pipeline had ended before")
            return
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        print(f"kill {number + 1}: after {wait_s:.0f} s")


def check_copies(certificate: Path, copy: Path) -> None:
    """Verify a copy of the certified folder, and a copy of which one byte was changed."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(certificate.parent, copy)
    line = [sys.executable, "-m", "dnntrain", "verify", str(copy / certificate.name), "--no-timing"]
    print(f"verify of a copy: exit code {subprocess.run(line, check=False).returncode}")
    model = max((path for path in copy.iterdir() if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    print(f"verify of an altered copy: exit code {subprocess.run(line, check=False).returncode}")


if __name__ == "__main__":
    main()
