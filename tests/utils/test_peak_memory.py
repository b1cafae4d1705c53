"""The peak memory of a process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dnntrain.utils.hardware import read_peak_bytes

CODE = "from dnntrain.utils.hardware import read_peak_bytes; print(read_peak_bytes('cpu'))"


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has the peak of a program apart from that of its parent"
)
def test_the_peak_of_a_process_leaves_out_the_memory_of_its_parent() -> None:
    block = b"\1" * 2**28
    peak = int(subprocess.run([sys.executable, "-c", CODE], capture_output=True, check=True).stdout)
    assert len(block) < read_peak_bytes("cpu")
    assert 0 < peak < len(block)
