"""The processes of a trial are found while they start a program, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dnntrain.sweep.processes import MARK_VARIABLE, find_processes


def test_a_process_whose_environment_is_empty_for_a_moment_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "input()"],
        stdin=subprocess.PIPE,
        env={**os.environ, MARK_VARIABLE: str(tmp_path)},
    )
    environ, reads = Path(f"/proc/{process.pid}/environ"), []
    read_bytes = Path.read_bytes

    def read_after_exec(path: Path) -> bytes:
        reads.append(path)
        return b"" if path == environ and reads.count(environ) < 3 else read_bytes(path)

    try:
        monkeypatch.setattr(Path, "read_bytes", read_after_exec)
        assert find_processes(tmp_path) == [process.pid]
        assert reads.count(environ) == 3
    finally:
        process.kill()
        process.communicate()


def test_a_process_without_an_environment_is_read_a_few_times_only(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={})
    try:
        assert find_processes(tmp_path) == []
    finally:
        process.kill()
        process.communicate()
