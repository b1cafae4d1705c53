"""Start-up times of the command: help and plan, beside `import torch`.

    .venv/bin/python scripts/bench/start_up.py [--rounds 7]

Whole processes that take turns; medians, and the ratio of `plan` to `import torch` round by round.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

DNNTRAIN = str(Path(sys.executable).with_name("dnntrain"))
COMMANDS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "dnntrain plan": [DNNTRAIN, "plan"],
    "dnntrain --help": [DNNTRAIN, "--help"],
    "dnntrain ls": [DNNTRAIN, "ls"],
    "a refused line": [DNNTRAIN, "+paralel=ddp", "optim.lrr=1"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, words in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(words, capture_output=True, check=False)
            seconds[name].append(time.perf_counter() - started)
    for name, values in seconds.items():
        print(f"{name:<16} {statistics.median(values):6.3f} s  (least {min(values):.3f})")
    ratios = [plan / torch for plan, torch in zip(seconds["dnntrain plan"], seconds["import torch"], strict=True)]
    print(f"plan / import torch: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
