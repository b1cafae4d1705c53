"""Run one trial of a sweep: `python -m dnntrain.sweep.worker RUN_DIR PARENT CORES`.

Only the sweep starts it.
"""

from __future__ import annotations

import os
import signal
import sys

from dnntrain.utils.early_exit import exit_at_once_on_signals, ignore_signals_until_exit


def main() -> int:
    """Train the frozen configuration of RUN_DIR on CORES.

    It stops when process PARENT, the sweep, ends.
    """
    from dnntrain.utils.processes import die_with_parent

    _, _, parent, cores = sys.argv
    # SIGTERM rather than SIGKILL: the trial saves first, and ends its ranks cleanly.
    die_with_parent(int(parent), signal.SIGTERM)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, map(int, cores.split(",")))
    from dnntrain.run.worker import main as train

    return train()


if __name__ == "__main__":
    exit_at_once_on_signals()
    exit_code = main()
    ignore_signals_until_exit()
    sys.exit(exit_code)
