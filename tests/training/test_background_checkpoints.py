"""`checkpoint.background=true`: the same checkpoints, written while training continues."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from dnntrain import train
from dnntrain.checkpoint import write_checkpoint
from dnntrain.checkpoint.read_checkpoint import read_newest_checkpoint
from dnntrain.errors import CheckpointError
from dnntrain.training.background_writer import BackgroundWriter
from tests.support.rank_pool import Pool
from tests.support.short_runs import comparable, environment, trained

LINE = ("model=mlp", "train.max_examples=128", "train.duration=3ep", "average=[ema]", "log.report=false")


def read_bytes(run: Path) -> dict[str, Any]:
    """The tensor files of each checkpoint, and the manifest without what the clock decides."""
    found: dict[str, Any] = {}
    for path in sorted((run / "checkpoints").glob("step-*/*")):
        name = str(path.relative_to(run))
        if path.suffix == ".json":
            manifest = json.loads(path.read_text())
            found[name] = {key: manifest[key] for key in ("step", "data", "files", "tensors")}
        else:
            found[name] = path.read_bytes()
    for pointer in ("LAST", "BEST"):
        found[pointer] = (run / "checkpoints" / pointer).read_text()
    return found


@pytest.mark.slow
def test_the_checkpoints_have_the_same_bytes(tmp_path: Path) -> None:
    trained(tmp_path / "plain", *LINE)
    trained(tmp_path / "background", *LINE, "checkpoint.background=true")
    assert read_bytes(tmp_path / "background") == read_bytes(tmp_path / "plain")
    assert comparable(tmp_path / "background") == comparable(tmp_path / "plain")


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_the_one_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = write_checkpoint._finish_checkpoint
    writers = set()

    def fail_later(temporary: Path, step: int, *rest: Any) -> None:
        writers.add(threading.current_thread().name)
        if step > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        finish(temporary, step, *rest)

    monkeypatch.setattr(write_checkpoint, "_finish_checkpoint", fail_later)
    with pytest.raises(CheckpointError, match="cannot be saved"):
        trained(tmp_path / "run", *LINE, "checkpoint.background=true")
    newest = read_newest_checkpoint(tmp_path / "run" / "checkpoints", lambda text: None)
    assert newest is not None
    assert newest.step == 4
    assert threading.current_thread().name not in writers


def test_jobs_run_in_their_order_and_the_first_error_is_raised() -> None:
    writer, done = BackgroundWriter(), []

    def fail() -> None:
        done.append("failed")
        raise CheckpointError("first")

    for job in (lambda: done.append("a"), fail, lambda: done.append("b")):
        writer.submit(job)
    with pytest.raises(CheckpointError, match="first"):
        writer.wait()
    assert done == ["a", "failed", "b"]
    writer.wait()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["ddp", "fsdp"])
def test_several_ranks_write_the_same_bytes(layout: str, pool: Pool, tmp_path: Path) -> None:
    line = [*LINE, f"parallel={layout}", "train.compile=off"]
    for name, words in (("plain", []), ("background", ["checkpoint.background=true"])):
        outcome = pool.train(2, [*line, *words], tmp_path / name)
        assert not outcome.error
    assert read_bytes(tmp_path / "background") == read_bytes(tmp_path / "plain")
    assert comparable(tmp_path / "background") == comparable(tmp_path / "plain")


@pytest.mark.slow
def test_after_a_kill_in_the_middle_of_a_write_the_checkpoint_before_is_used(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from dnntrain import train\n"
        "from dnntrain.checkpoint import write_checkpoint\n"
        "finish = write_checkpoint._finish_checkpoint\n"
        "def kill_or_finish(temporary, step, *rest):\n"
        "    if step > 4:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    finish(temporary, step, *rest)\n"
        "write_checkpoint._finish_checkpoint = kill_or_finish\n"
        "train(*sys.argv[1:], display='quiet')\n"
    )
    words = (*LINE, "checkpoint.background=true", f"run_dir={tmp_path / 'killed'}")
    process = subprocess.run([sys.executable, "-c", script, *words], env=environment(), capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    newest = read_newest_checkpoint(tmp_path / "killed" / "checkpoints", lambda text: None)
    assert newest is not None
    assert newest.step == 4
    train(*words, display="quiet")
    train(*LINE, f"run_dir={tmp_path / 'whole'}", display="quiet")
    assert read_bytes(tmp_path / "killed") == read_bytes(tmp_path / "whole")
    assert comparable(tmp_path / "killed") == comparable(tmp_path / "whole")
