"""Check a limit of the address space (`ulimit -v`) before torch is loaded.

torch's libraries end the process without an exception if they cannot allocate while they load.
"""

from __future__ import annotations

import subprocess
import sys

from dnntrain.errors import ConfigError

#: Seconds for an import of torch on a busy machine.
_TIMEOUT_S = 300

#: The parts of torch that every command loads, and threads, which take memory too.
_PROGRAM = "import numpy, torch; torch.ones(64, 64) @ torch.ones(64, 64)"


def check_memory_limit() -> None:
    """Check that torch can be loaded within the limit of this process, if it has one.

    A child process tries it. Raises ConfigError, which names the limit, if it fails.
    """
    try:
        import resource
    except ImportError:
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY or "torch" in sys.modules:
        return
    try:
        child = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return
    if child.returncode != 0:
        raise ConfigError(
            f"the limit of memory is too small to load torch (ulimit -v {limit // 1024})",
            "raise it: torch alone takes some GiB of address space; limit the resident memory instead",
        )
