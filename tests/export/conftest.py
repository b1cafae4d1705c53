"""Exports of the short run, made once each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from short_runs import trained

from dnntrain.cli.main import main


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the default network that is good enough for classes to be worth comparing."""
    path = tmp_path_factory.mktemp("exported") / "run"
    trained(path, "train.duration=4ep", "train.max_examples=1200")
    return path


@pytest.fixture(scope="session")
def exports(run: Path) -> Callable[..., Path]:
    """The folder of the export of a format, made on first use."""

    def export(name: str, *words: str) -> Path:
        folder = run / "exports" / name
        if not folder.is_dir():
            assert main(["export", str(run), f"--format={name}", *words]) == 0
        return folder

    return export


@pytest.fixture
def alone(exports: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of an export, far from its run."""

    def copy(name: str, *words: str) -> Path:
        return shutil.copytree(exports(name, *words), tmp_path / name)

    return copy
