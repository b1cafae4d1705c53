"""The exit code of a run through every door; under a torchrun of the user's, which has its own, result.json and stderr say the truth."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from fault_runs import (
    DIRECT,
    LINE,
    TORCHRUN,
    TWO,
    assert_nobody_left,
    await_checkpoint,
    finish,
    processes_of,
    role,
    start,
)
from short_runs import result

#: What a line adds, for each code that needs no signal.
ENDS = {
    0: ("train.duration=4step",),
    2: ("train.micro_batch_size=64",),
    3: ("data=image_folder", "data.root=nowhere"),
    4: ("optim=sgd", "optim.lr=1e30"),
    5: ("resume=nowhere",),
}
STATUS = {0: "done", 2: "refused", 3: "failed", 4: "diverged", 5: "failed", 75: "preempted", 130: "interrupted"}
DOORS = {"direct": (DIRECT, ()), "own torchrun": (DIRECT, TWO), "outer torchrun": (TORCHRUN, TWO[:1])}


def line(*more: str) -> tuple[str, ...]:
    given = {word.split("=")[0] for word in more}
    return (*(word for word in LINE if word.split("=")[0] not in given), *more)


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("code", ENDS)
def test_exit_code(door: str, code: int, tmp_path: Path) -> None:
    program, layout = DOORS[door]
    ended = finish(line(*ENDS[code], *layout, f"run_dir={tmp_path}/run"), tmp_path, program)
    if door != "outer torchrun":
        assert ended.returncode == code, ended.stderr
    else:
        assert (ended.returncode == 0) == (code == 0)
    if code not in (2, 3, 5) or door == "outer torchrun":
        assert result(tmp_path / "run")["status"] == STATUS[code]
        assert result(tmp_path / "run").get("exit_code", 0) == code
    if code:
        own = [line for line in ended.stderr.splitlines() if line.startswith("dnntrain: ")]
        assert len(own) == 1, ended.stderr
        assert door == "outer torchrun" or own[0] in ended.stderr.splitlines()[-3:]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
@pytest.mark.parametrize("started", ["agent", "rank"])
def test_exit_code_after_a_signal_while_the_ranks_start(
    started: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    words = line("train.duration=100000step", *TWO, f"run_dir={tmp_path}/run")
    with start(words, tmp_path) as process:
        while process.poll() is None and not any(role(pid) == started for pid in processes_of(tmp_path / "run")):
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=100)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert len([line for line in errors.splitlines() if line.startswith("dnntrain: ")]) == 1, errors
    assert result(tmp_path / "run")["status"] == STATUS[code]
    assert_nobody_left(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_exit_code_after_a_signal(door: str, number: signal.Signals, code: int, tmp_path: Path) -> None:
    program, layout = DOORS[door]
    words = line("train.duration=100000step", *layout, f"run_dir={tmp_path}/run")
    with start(words, tmp_path, program) as process:
        await_checkpoint(process, tmp_path / "run")
        process.send_signal(number)
        _, errors = process.communicate(timeout=100)
    if door != "outer torchrun":
        assert process.returncode == code, errors
    assert result(tmp_path / "run")["status"] == STATUS[code]
    assert result(tmp_path / "run")["exit_code"] == code
    assert f"saved in {tmp_path}/run" in errors
