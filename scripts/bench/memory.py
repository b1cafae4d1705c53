"""Peak memory of a resident run against the loop written by hand, and against the plan's estimate.

    .venv/bin/python scripts/bench/memory.py [--steps 200]

Peak resident set sizes of whole processes, as the operating system counted them (ru_maxrss). The bound that dnntrain keeps is
bytes of the data set as uint8 + 1.3 × the peak of the raw loop of loop_cost.py on the same network.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from loop_cost import command

#: Fashion-MNIST, both splits.
DATA_BYTES = 70_000 * 784
MODELS = ("mlp", "small_cnn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    for model in MODELS:
        raw = peak_bytes(command("raw", model, steps, "."))
        with tempfile.TemporaryDirectory() as folder:
            words = command("dnntrain", model, steps, folder)[4].replace("'", "").split()
            ours = peak_bytes([*words, "--quiet"])
            result = json.loads((Path(folder) / "run" / "result.json").read_text())
        bound = DATA_BYTES + 1.3 * raw
        estimate = result["estimated_memory_mb"] * 2**20
        print(
            f"{model}: raw {raw / 2**20:.0f} MiB, dnntrain {ours / 2**20:.0f} MiB, bound {bound / 2**20:.0f} MiB "
            f"({'kept' if ours <= bound else 'BROKEN'}); estimated {estimate / 2**20:.0f} MiB ({estimate / ours - 1:+.0%})"
        )


def peak_bytes(words: list[str]) -> int:
    """The largest resident set of the process that `words` start."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(words)}")
    return usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
