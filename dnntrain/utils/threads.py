"""Choose the threads of an operator, and how long threads wait without sleeping.

Both are pure functions of the configuration, the environment and the hardware, never of the current
load: the number of threads decides the bits of sums.

OpenMP's threads spin between two operators. On an idle machine that saves the wake-up of a sleeping
thread. Beside another process it is ruinous: a spinning thread keeps the core that another thread
of the same operator needs. So they spin for a short time only, and small operators, which would
wait more than compute, get one thread.

This module imports no torch: OpenMP reads the environment once, when torch loads it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

#: Variables by which a user sets how threads wait. If one of them is set, nothing is changed.
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

#: GOMP_SPINCOUNT belongs to GNU's OpenMP (torch for Linux; 300,000 rounds by default, several
#: milliseconds). KMP_BLOCKTIME belongs to LLVM's and Intel's (torch for macOS, conda's MKL; 200 ms
#: by default), in milliseconds: 0 sleeps at once. Each ignores the other's variable.
_SHORT_WAIT = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}

#: For threads that sleep at once. GOMP_SPINCOUNT is named too, since it overrides the policy.
PASSIVE_WAIT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}

#: Forward FLOPs that justify one more thread, chosen from two cores (see docs/benchmarks.md); not
#: measured on more.
FLOPS_PER_THREAD = 5e6


def make_wait_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to add to `environ` so that waiting threads soon sleep.

    None if the user has set one.
    """
    return {} if any(name in environ for name in WAIT_VARIABLES) else dict(_SHORT_WAIT)


def shorten_wait(environ: MutableMapping[str, str] = os.environ) -> None:
    """Add `make_wait_variables` to the environment.

    If torch is loaded already, only child processes are affected.
    """
    environ.update(make_wait_variables(environ))


def compute_threads(work: float, available: int) -> int:
    """Return the threads for a network: one for each `FLOPS_PER_THREAD`.

    At least 1 and at most `available`. `work` is the FLOPs of the average operator on a
    micro-batch.
    """
    return max(1, min(available, int(work / FLOPS_PER_THREAD)))


def count_available_threads(given: int, cores: int, local_ranks: int, environ: Mapping[str, str]) -> int:
    """Return the most threads for one of `local_ranks` processes.

    `given` is torch's default for a lone process. OMP_NUM_THREADS, which is in `given` already, is
    a limit for each process; without it the ranks share the cores.
    """
    return given if "OMP_NUM_THREADS" in environ or local_ranks == 1 else max(1, cores // local_ranks)


def read_saved_threads(plan: Mapping[str, object], available: int) -> int | None:
    """Return the threads of a saved plan if this machine has as many, else None.

    `plan` is the contents of plan.json.
    """
    threads = plan.get("threads")
    return threads if isinstance(threads, int) and 1 <= threads <= available else None
