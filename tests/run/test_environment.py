"""The facts of env.json."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dnntrain.run.environment import collect_environment


def run_git(*words: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    run_git("init", "-q")
    Path("a.txt").write_text("a")
    run_git("add", "a.txt")
    run_git("commit", "-q", "-m", "a")
    return tmp_path


def test_the_commit_and_its_changes_are_noted(repository: Path) -> None:
    commit = run_git("rev-parse", "HEAD")
    assert collect_environment()["git"] == {"commit": commit, "dirty": False}
    Path("a.txt").write_text("b")
    assert collect_environment()["git"] == {"commit": commit, "dirty": True}


@pytest.mark.parametrize("key", ["core.fsmonitor", "filter.evil.clean"])
def test_the_settings_of_a_repository_run_no_program(key: str, repository: Path) -> None:
    program = repository / "evil.sh"
    program.write_text(f"#!/bin/sh\ntouch {repository}/was_run\ncat\n")
    program.chmod(0o755)
    (repository / ".gitattributes").write_text("*.txt filter=evil\n")
    commit = run_git("rev-parse", "HEAD")
    run_git("config", key, str(program))
    Path("a.txt").write_text("c")
    assert collect_environment()["git"] == {"commit": commit}
    assert not (repository / "was_run").exists()
    # git itself would have run it.
    subprocess.run(["git", "status"], check=True, capture_output=True)
    assert (repository / "was_run").exists()
