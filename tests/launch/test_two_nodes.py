"""Two nodes for real: two network namespaces with a link between them, a torchrun agent in each."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from short_runs import environment

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture
def namespaces() -> None:
    """Skips where this user or system cannot make network namespaces."""
    try:
        tried = subprocess.run(["ip", "netns", "add", "dnn-try"], capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"two nodes need the command ip: {error}")
    if tried.returncode:
        pytest.skip(f"two nodes need network namespaces, which cannot be made here: {tried.stderr.strip()}")
    subprocess.run(["ip", "netns", "del", "dnn-try"], check=True)


def two_nodes(mode: str, folder: Path) -> str:
    command = [str(ROOT / "scripts" / "two_nodes"), mode, str(folder)]
    environ = {**environment(), "PYTHON": sys.executable}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.usefixtures("namespaces")
def test_a_run_over_two_nodes_completes(tmp_path: Path) -> None:
    output = two_nodes("run", tmp_path)
    assert "node0 ended with 0" in output
    assert "node1 ended with 0" in output
    assert "'status': 'done'" in output


@pytest.mark.usefixtures("namespaces")
def test_with_the_link_cut_both_nodes_end_within_a_minute_and_a_second_start_goes_on(tmp_path: Path) -> None:
    output = two_nodes("cut", tmp_path)
    seconds = re.search(r"both ended (\d+) s after the cut", output)
    assert seconds is not None
    assert int(seconds[1]) <= 60
    assert "its node may be out of reach" in output
    assert "lost touch with the main rank's store" in output
    assert "going on from step" in output
    assert "'status': 'done'" in output
