"""Trains random combinations of methods, layouts and schedules, and counts what they do.

python scripts/run_combinations.py --count 300 --seed 0
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from combinations import Trial, combination  # noqa: E402
from rank_pool import Pool  # noqa: E402


def main() -> int:
    """Runs them; the exit code is 1 where one did neither train nor refuse."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=180, help="seconds for each run; more on a busy machine")
    asked = parser.parse_args()
    counts: Counter[str] = Counter()
    pool = Pool()
    try:
        with tempfile.TemporaryDirectory() as folder:
            trial = Trial(pool, Path(folder), asked.timeout)
            for number in range(asked.first, asked.first + asked.count, asked.step):
                tried = combination(asked.seed, number)
                found = trial.of(tried)
                counts[found.kind] += 1
                note = found.note if found.kind == "failed" else " / ".join(found.note.split("\n"))
                print(f"{found.kind}: {tried}" + (f"\n    {note}" if note else ""), flush=True)
    finally:
        pool.close()
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    return int(counts["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
