"""The start of several ranks: whose checkpoints a restart resumes from, and the memory of the process that waits."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rank_pool import Pool
from short_runs import SHORT

from dnntrain import train
from dnntrain.checkpoint.checkpoint_folder import list_checkpoints
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.config.run_config import RunConfig
from dnntrain.run import join_ranks, launcher, start
from dnntrain.run.directory import RunDirectory
from dnntrain.run.rank_group import RankGroup
from dnntrain.run.result import RunResult


class Store(dict[str, bytes]):
    """The part of a store that the start of a run uses."""

    set = dict.__setitem__

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)


def choose(store: Store, config: RunConfig) -> str:
    rendezvous: Any = SimpleNamespace(root=store)
    return join_ranks._choose_run_dir(rendezvous, config, 0, "started")["resume"]


@pytest.mark.parametrize("resume", ["never", "elsewhere"])
def test_a_restart_under_torchrun_resumes_from_checkpoints_of_its_own_start_only(
    resume: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "LAST").write_text("step-4\n")
    config = decode_config(compose([f"run_dir={tmp_path}", f"resume={resume}"], quiet=True))
    rendezvous: Any = SimpleNamespace(root=Store())
    store = rendezvous.root
    assert choose(store, config) == config.resume
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert choose(store, config) == config.resume
    RankGroup(rendezvous, tmp_path, "started").record_start()
    assert choose(store, config) == "auto"
    # The node with the records is gone.
    assert choose(Store(), config) == "auto"


def start_two_ranks(run: Path, *words: str) -> None:
    given = {word.split("=")[0] for word in words}
    kept = [word for word in SHORT if word.split("=")[0] not in given]
    train(*kept, *words, "parallel=ddp", "launch.nproc=2", f"run_dir={run}", display="quiet")


@pytest.mark.slow
def test_the_process_that_waits_for_ranks_holds_no_checkpoint(
    short_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(short_run, tmp_path / "run")
    found: list[weakref.ref[Any]] = []
    find_start = start.find_start

    def find_and_remember(*arguments: Any) -> start.RunStart:
        run_start = find_start(*arguments)
        found.append(weakref.ref(run_start.checkpoint))
        return run_start

    def wait_for_ranks(*arguments: Any) -> RunResult:
        gc.collect()
        assert [reference() for reference in found] == [None]
        return RunResult("done", str(run))

    monkeypatch.setattr(start, "find_start", find_and_remember)
    monkeypatch.setattr(launcher, "launch_run", wait_for_ranks)
    start_two_ranks(run, "train.duration=4ep")
    assert found


@pytest.mark.slow
def test_the_checkpoints_of_an_earlier_run_are_gone_before_the_first_attempt(
    short_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(short_run, tmp_path / "run")
    num_checkpoints: list[int] = []

    def wait_for_ranks(session: Any, directory: RunDirectory, *arguments: Any) -> RunResult:
        num_checkpoints.append(len(list_checkpoints(directory.checkpoints)))
        return RunResult("done", str(run))

    monkeypatch.setattr(launcher, "launch_run", wait_for_ranks)
    start_two_ranks(run, "resume=never")
    assert num_checkpoints == [0]


@pytest.mark.slow
def test_a_resumed_run_releases_its_checkpoint(
    short_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(short_run, tmp_path / "run")
    states: list[Mapping[str, Any]] = []
    find_start = start.find_start

    def find_and_remember(*arguments: Any) -> start.RunStart:
        run_start = find_start(*arguments)
        assert run_start.checkpoint is not None
        assert run_start.checkpoint.states
        states.append(run_start.checkpoint.states)
        return run_start

    monkeypatch.setattr(start, "find_start", find_and_remember)
    sizes: list[int] = []
    words = [word for word in SHORT if not word.startswith("train.duration")]
    train(
        *words,
        "train.duration=4ep",
        f"run_dir={run}",
        display="quiet",
        callbacks=[lambda row: sizes.append(len(states[0]))],
    )
    assert set(sizes) == {0}


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_resumed_run_does_not_read_the_file_of_its_initial_weights(
    ranks: int, short_run: Path, tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(short_run, tmp_path / "source")
    layout = ["parallel=ddp"] if ranks > 1 else []
    line = [*SHORT, f"init_from={source}", *layout]
    assert not pool.train(ranks, line, tmp_path / "run").error
    # Another start would write the model of the source, which is not done, from a checkpoint that is damaged.
    for name in ("model.safetensors", "result.json"):
        (source / name).unlink()
    for path in source.glob("checkpoints/*/*.safetensors"):
        path.write_bytes(b"damaged")
    longer = [word for word in line if not word.startswith("train.duration")]
    outcome = pool.train(ranks, [*longer, "train.duration=4ep"], tmp_path / "run")
    assert not outcome.error, outcome.error
