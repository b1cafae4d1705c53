"""A rank that is killed, stopped or wrong in mid-run: all end, with the reason, and nothing is left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from fault_runs import (
    LINE,
    TORCHRUN,
    TWO,
    assert_nobody_left,
    await_checkpoint,
    finish,
    network,
    processes_of,
    role,
    start,
)
from short_runs import comparable, result

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("fault", "code"), [("refuse at start", 2), ("data", 3)])
@pytest.mark.parametrize("door", ["own", "outer"])
def test_what_the_second_rank_refuses_is_the_runs_end(fault: str, code: int, door: str, tmp_path: Path) -> None:
    words = (*LINE, "model=custom", network(tmp_path), f"run_dir={tmp_path}/run")
    if door == "own":
        ended = finish((*words, *TWO), tmp_path, FAULT=fault, WHEN="5")
        assert ended.returncode == code, ended.stderr
    else:
        ended = finish((*words, TWO[0]), tmp_path, TORCHRUN, FAULT=fault, WHEN="5")
    told = [line for line in ended.stderr.splitlines() if line.startswith("dnntrain: ")]
    assert len(told) == 1, ended.stderr
    assert "rank 1 on" in told[0]
    assert "of this node is" in told[0]
    assert result(tmp_path / "run")["exit_code"] == code


def test_an_error_in_the_users_network_on_the_second_rank_is_the_runs_end(tmp_path: Path) -> None:
    words = (*LINE, "model=custom", network(tmp_path), *TWO, f"run_dir={tmp_path}/run")
    ended = finish(words, tmp_path, FAULT="bug", WHEN="5")
    assert ended.returncode == 2, ended.stderr
    (told,) = [line for line in ended.stderr.splitlines() if line.startswith("dnntrain: ")]
    assert "rank 1 on" in told
    assert f"{tmp_path}/net.py" in ended.stderr
    assert "ValueError: seven of nine" in ended.stderr
    assert "ValueError: seven of nine" in (tmp_path / "run" / "logs" / "rank_1.log").read_text()


def test_a_killed_rank_ends_the_run_and_a_restart_finishes_it_bitwise(tmp_path: Path) -> None:
    words = (*LINE, "model=custom", network(tmp_path), *TWO)
    whole = finish((*words, f"run_dir={tmp_path}/whole"), tmp_path)
    assert whole.returncode == 0, whole.stderr
    killed = finish((*words, f"run_dir={tmp_path}/killed"), tmp_path, FAULT="kill", WHEN="21")
    assert killed.returncode == 1
    assert "rank 1" in killed.stderr.splitlines()[-2]
    assert "SIGKILL" in killed.stderr.splitlines()[-2]
    assert result(tmp_path / "killed")["status"] == "failed"
    assert_nobody_left(tmp_path / "killed")
    once = str(tmp_path / "once")
    again = finish(
        (*words, "launch.max_restarts=1", f"run_dir={tmp_path}/again"),
        tmp_path,
        FAULT="kill",
        WHEN="21",
        FAULT_ONCE=once,
    )
    assert again.returncode == 0, again.stderr
    assert "restart 1 of 1, from step-" in again.stderr
    assert result(tmp_path / "again")["digest"] == result(tmp_path / "whole")["digest"]
    assert comparable(tmp_path / "again") == comparable(tmp_path / "whole")


def test_a_rank_that_torchrun_starts_again_alone_goes_on_in_its_own_run_directory(tmp_path: Path) -> None:
    alone = (*TORCHRUN[:4], "--nproc-per-node=1", "--max-restarts=1", *TORCHRUN[5:])
    words = (*LINE, "model=custom", network(tmp_path), "name=alone")
    ended = finish(words, tmp_path, alone, FAULT="kill", WHEN="21", FAULT_ONCE=str(tmp_path / "once"), VICTIM="0")
    assert ended.returncode == 0, ended.stderr
    (run,) = (tmp_path / "runs" / "alone").iterdir()
    assert "resuming from step" in ended.stderr
    assert result(run)["steps"] == 40


@pytest.mark.parametrize("fault", ["stop", "loop"])
def test_a_hung_rank_ends_the_run_by_the_deadline_with_the_stacks_of_all(fault: str, tmp_path: Path) -> None:
    words = (*LINE, "model=custom", network(tmp_path), *TWO, "launch.hang_timeout=5s", f"run_dir={tmp_path}/run")
    ended = finish(words, tmp_path, timeout_s=90, FAULT=fault, WHEN="9")
    assert ended.returncode == 1
    for rank in (0, 1):
        assert f"--- rank_{rank}" in ended.stderr
    assert 'net.py", line' in ended.stderr.split("--- rank_1")[1]
    assert ("it is stopped (SIGSTOP)" if fault == "stop" else "until the deadline") in ended.stderr.splitlines()[-2]
    assert_nobody_left(tmp_path / "run")


@pytest.mark.parametrize("victim", ["parent", "agent"])
def test_no_process_outlives_a_killed_parent_or_agent(victim: str, tmp_path: Path) -> None:
    words = (*LINE, "train.duration=100000step", *TWO, f"run_dir={tmp_path}/run")
    with start(tuple(word for word in words if word != "train.duration=40step"), tmp_path) as process:
        await_checkpoint(process, tmp_path / "run")
        agents = [pid for pid in processes_of(tmp_path / "run") if role(pid) == "agent"]
        assert len(agents) == 1
        os.kill(process.pid if victim == "parent" else agents[0], signal.SIGKILL)
        process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if victim == "parent" else 1)
    assert_nobody_left(tmp_path / "run")
