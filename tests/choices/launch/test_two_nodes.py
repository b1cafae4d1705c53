"""Two nodes for real: two network namespaces with a link between them, a torchrun agent in each."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from short_runs import environment, result, rows, trained

ROOT = Path(__file__).resolve().parents[3]

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


def two_nodes(mode: str, folder: Path, *settings: str, code: int = 0) -> str:
    command = [str(ROOT / "scripts" / "two_nodes"), mode, str(folder), *settings]
    environ = {**environment(), "PYTHON": sys.executable}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def undisturbed(folder: Path, *settings: str) -> list[dict[str, Any]]:
    """The rows of the script's elastic run, of two ranks that stay."""
    every = [f"{key}.every=20step" for key in ("eval", "checkpoint", "log")]
    words = ["train.max_examples=200", "train.batch_size=32", "train.duration=400step", "launch.nproc=2", *every]
    trained(folder, *words, *settings)
    return rows(folder)


@pytest.mark.usefixtures("namespaces")
def test_a_run_over_two_nodes_completes(tmp_path: Path) -> None:
    output = two_nodes("run", tmp_path)
    assert "node0 ended with 0" in output
    assert "node1 ended with 0" in output
    assert "'status': 'done'" in output


@pytest.mark.long
@pytest.mark.usefixtures("namespaces")
def test_with_the_link_cut_both_nodes_end_within_a_minute_and_a_second_start_goes_on(tmp_path: Path) -> None:
    output = two_nodes("cut", tmp_path)
    seconds = re.search(r"both ended (\d+) s after the cut", output)
    assert seconds is not None
    assert int(seconds[1]) <= 60
    assert "its node may be unreachable" in output
    assert "got no answer from the main rank's store" in output
    assert "resuming from step" in output
    assert "'status': 'done'" in output


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize(("mode", "layout"), [("kill", "ddp"), ("lose", "fsdp")])
def test_with_a_node_gone_the_other_goes_on_alone_and_computes_the_same(mode: str, layout: str, tmp_path: Path) -> None:
    settings = (f"parallel={layout}", "precision=fp32", "augment.crop.padding=1", "optim.lr=2e-3")
    output = two_nodes(mode, tmp_path, *settings)
    assert "ranks before: 2;" in output
    assert "node1 ended with 137" in output
    assert "node0 ended with 0" in output
    assert "ranks after: 1" in output
    gone = re.search(r"node1 is gone after step-(\d+)", output)
    again = re.search(r"resuming from step (\d+) of", output)
    assert gone is not None
    assert again is not None
    assert int(gone[1]) <= int(again[1]) < 400
    assert result(tmp_path / "run")["steps"] == 400
    found, expected = rows(tmp_path / "run"), undisturbed(tmp_path / "whole", *settings)
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    # The sums of one rank are rounded otherwise than those of two; training enlarges the difference in time.
    first = sum(row["step"] <= int(again[1]) + 60 for row in found)
    assert [row["loss"] for row in found[:first]] == pytest.approx([row["loss"] for row in expected[:first]], rel=1e-5)
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], rel=1e-2)


@pytest.mark.usefixtures("namespaces")
def test_a_node_that_comes_back_is_taken_in_and_both_go_on(tmp_path: Path) -> None:
    output = two_nodes("return", tmp_path)
    assert [line for line in output.splitlines() if line.startswith("ranks ")][1:] == [
        "ranks meanwhile: 1",
        "ranks after: 2",
    ]
    assert output.count("ended with 0") == 2
    alone, together = map(int, re.findall(r"resuming from step (\d+) of", output))
    assert alone < together < 6000
    assert result(tmp_path / "run")["steps"] == 6000


@pytest.mark.usefixtures("namespaces")
def test_a_layout_that_needs_both_nodes_is_refused_once_one_is_gone(tmp_path: Path) -> None:
    output = two_nodes("kill", tmp_path, "parallel=fsdp", "parallel.shard=2", code=1)
    assert "parallel.shard=2 = 2 ranks, but the run has 1" in output
    assert result(tmp_path / "run")["status"] == "refused"
    assert (tmp_path / "run" / "checkpoints" / "LAST").is_file()
