"""Data parallelism trains the run of one process: real ranks on gloo, started by the command itself and by torchrun."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from short_runs import comparable, environment, result

Run = Callable[..., "subprocess.CompletedProcess[str]"]

#: 100 examples: the last batch of an epoch has 4, which leaves the second rank without any.
LINE = (
    "train.max_examples=100",
    "train.batch_size=32",
    "train.duration=20step",
    "log.every=1step",
    "log.report=false",
    "precision=fp32",
    "augment.crop.padding=1",
    "reg=[label_smoothing,grad_clip]",
    "average=[ema]",
)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ddp") / "one"
    command = [sys.executable, "-m", "dnntrain", *LINE, f"run_dir={folder}", "--quiet"]
    subprocess.run(command, env=environment(), check=True, capture_output=True)
    return folder


def assert_same_run(folder: Path, reference: Path) -> None:
    assert result(folder)["status"] == "done"
    ours, theirs = comparable(folder), comparable(reference)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a.get("accuracy") == b.get("accuracy")
    assert result(folder)["value"] == result(reference)["value"]


@pytest.mark.slow
@pytest.mark.parametrize("word", ["+parallel=ddp", pytest.param("parallel=ddp", marks=pytest.mark.slow)])
def test_two_ranks_started_by_the_command_train_the_run_of_one_process(
    word: str, one_process: Path, tmp_path: Path, dnntrain: Run
) -> None:
    done = dnntrain(*LINE, word, "launch.nproc=2", f"run_dir={tmp_path}/two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{tmp_path}/two"
    assert_same_run(tmp_path / "two", one_process)


@pytest.mark.slow
def test_two_ranks_under_torchrun_share_one_run_directory(one_process: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "dnntrain"]
    done = subprocess.run(
        [*torchrun, *LINE, "+parallel=ddp", "name=two"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "two").iterdir()
    assert_same_run(folder, one_process)


@pytest.mark.slow
def test_two_ranks_under_torchrun_without_a_layout_take_ddp_and_say_so(one_process: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "dnntrain"]
    done = subprocess.run(
        [*torchrun, *LINE, "run_dir=run"], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("note: parallel=ddp was chosen for the 2 ranks that were started") == 1
    assert "parallel=ddp" in (tmp_path / "run" / "overrides.txt").read_text().split()
    assert_same_run(tmp_path / "run", one_process)


@pytest.mark.slow
def test_seconds_are_refused_where_each_rank_has_a_clock(dnntrain: Run) -> None:
    refused = dnntrain("plan", "parallel=ddp", "eval.every=30s")
    assert refused.returncode == 2
    assert "its own clock" in refused.stderr


#: Saves at steps of which no row is written, with masks that cannot be keyed.
STOPPED = (*LINE, "log.every=7step", "checkpoint.every=3step", "model.dropout=0.2", "parallel=ddp", "launch.nproc=2")


@pytest.mark.slow
def test_ranks_that_are_stopped_by_the_parents_signal_go_on_bitwise(tmp_path: Path, dnntrain: Run) -> None:
    words = [word for word in STOPPED if word not in ("log.every=1step", "train.duration=20step")]
    words += ["train.duration=200step"]
    whole = dnntrain(*words, "run_dir=whole")
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, "-m", "dnntrain", *words, "run_dir=run"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE) as process:
        while process.poll() is None and not (tmp_path / "run" / "checkpoints" / "LAST").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 75
    assert result(tmp_path / "run")["status"] == "preempted"
    refused = dnntrain(*words, "run_dir=run", "seed=1")
    assert refused.returncode == 2
    assert "seed" in refused.stderr
    done = dnntrain(*words, "run_dir=run")
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "run")["digest"] == result(tmp_path / "whole")["digest"]
    assert comparable(tmp_path / "run") == comparable(tmp_path / "whole")
