"""A limit of memory is a message with exit code 2, at every size of the limit."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
from dnntrain.cli.main import main
sys.exit(main(["plan", "model=mlp", "model.hidden=[4]"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit_mib", [150, 600, 1200, 2000, 2600, 2900, 3100])
def test_a_limit_of_memory_ends_in_a_message(limit_mib: int) -> None:
    program = _PROGRAM.format(limit=limit_mib * 2**20)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 2), done.stderr[-2000:]
    assert done.returncode == 0 or "memory" in done.stderr
    assert "Traceback" not in done.stderr
