"""Links and pipes in a run directory: nothing outside it is written or read, and no command waits for a pipe."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from short_runs import environment, trained

from dnntrain.cli.main import main

PRECIOUS = "precious\n"
LONGER = "train.duration=4ep"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign") / "run"
    trained(folder, "checkpoint.every=1ep", "log.report=true")
    return folder


def replace(run: Path, name: str, kind: str) -> Path:
    """Replace a file of a run by a pipe, or by a link to another file, which is returned."""
    victim = run.with_name("victim")
    victim.write_text(PRECIOUS)
    path = run / name
    if path.is_dir():
        path.rename(run.with_name("moved"))
        path.symlink_to(run.with_name("moved"))
        return victim
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(victim)
    else:
        os.link(victim, path)
    return victim


@pytest.mark.slow
def test_a_folder_of_traces_that_is_a_link_ends_the_run_before_it_starts(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (run / "traces").symlink_to(tmp_path / "elsewhere")
    assert main(["resume", str(run), LONGER, "train.profile=2step"]) == 2
    assert f"{run}/traces cannot be opened because it is a symbolic link" in capsys.readouterr().err
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["tmp", "json.tmp", "json"])
def test_a_trace_is_not_written_through_a_link(suffix: str, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    victim = tmp_path / "victim"
    victim.write_text(PRECIOUS)
    (run / "traces").mkdir()
    for step in range(40):
        (run / "traces" / f"rank_0-step_{step}.{suffix}").symlink_to(victim)
    assert main(["resume", str(run), LONGER, "train.profile=2step", "-q"]) == 0
    assert len([path for path in (run / "traces").iterdir() if path.is_file() and not path.is_symlink()]) == 1
    assert victim.read_text() == PRECIOUS


def newest(run: Path) -> str:
    return (run / "checkpoints" / "LAST").read_text().strip()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pipe", "link", "hard link"])
@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "log.txt"])
def test_a_file_that_a_run_writes_in_place_must_be_its_own(
    name: str, kind: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    victim = replace(run, name, kind)
    # Rows that can be read, as through a hard link, are compared with their SHA-256 first.
    has_other_rows = (name, kind) == ("metrics.jsonl", "hard link")
    assert main(["resume", str(run), LONGER]) == (5 if has_other_rows else 2)
    message = capsys.readouterr().err
    assert (f"{run}/{name} is damaged" if has_other_rows else f"{run}/{name} cannot be opened because it is") in message
    assert "Traceback" not in message
    assert victim.read_text() == PRECIOUS


@pytest.mark.slow
def test_a_hard_link_to_the_right_rows_is_not_written_either(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    victim = tmp_path / "rows"
    (run / "metrics.jsonl").rename(victim)
    os.link(victim, run / "metrics.jsonl")
    before = victim.read_bytes()
    assert main(["resume", str(run), LONGER]) == 2
    assert f"{run}/metrics.jsonl cannot be opened because it is" in capsys.readouterr().err
    assert victim.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["checkpoints", "logs"])
def test_a_folder_that_a_run_writes_to_must_not_be_a_link(
    folder: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / folder).mkdir(exist_ok=True)
    replace(run, folder, "link")
    before = sorted(path.name for path in (tmp_path / "moved").rglob("*"))
    assert main(["resume", str(run), LONGER]) == 2
    assert f"{run}/{folder} cannot be opened because it is a symbolic link" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "moved").rglob("*")) == before


READ_FILES = (
    "config.yaml",
    "overrides.txt",
    "plan.json",
    "env.json",
    "result.json",
    "evaluation.json",
    "results.csv",
    "report.html",
    "curves.png",
    "model.safetensors",
    "config.json",
    "metrics.jsonl",
    "checkpoints/LAST",
    "checkpoints/BEST",
    "checkpoints/NEWEST/manifest.json",
    "checkpoints/NEWEST/state-0.safetensors",
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pipe", "link"])
@pytest.mark.parametrize("name", READ_FILES)
def test_no_command_waits_for_a_pipe_or_goes_through_a_link(
    name: str, kind: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = (["report"], ["eval", "--split", "val"], ["eval", "eval.batch_size=32"], ["resume", LONGER])
    for number, (command, *words) in enumerate(commands):
        place = tmp_path / str(number)
        place.mkdir()
        run = shutil.copytree(finished, place / "run")
        victim = replace(run, name.replace("NEWEST", newest(run)), kind)
        code = main([command, str(run), *words])
        output = capsys.readouterr()
        assert code in (0, 2, 5), output.err
        assert "Traceback" not in output.err
        assert victim.read_text() == PRECIOUS, (command, name)
        report = run / "report.html"
        assert name == "report.html" or not report.is_file() or PRECIOUS.strip() not in report.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pipe", "link"])
@pytest.mark.parametrize("name", ["logs/rank_1.log", "logs/stacks-rank_0.txt", "logs/agent.json", "logs/failure.json"])
def test_several_ranks_write_to_no_link_or_pipe(name: str, kind: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "logs").mkdir(parents=True)
    victim = replace(run, name, kind)
    words = ["parallel=ddp", "launch.nproc=2", "train.max_examples=64", "train.duration=2step", "log.report=false"]
    ended = subprocess.run(
        [sys.executable, "-m", "dnntrain", *words, f"run_dir={run}"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode in (0, 2), ended.stderr
    assert victim.read_text() == PRECIOUS
