"""Paths of a configuration are saved whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from dnntrain.config.compose import compose
from dnntrain.config.digest import compute_digest


@pytest.mark.slow
def test_relative_paths_are_those_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("distill=kd", "distill.teacher=[runs/a,timm:b,/c]", "init_from=d.pt", "data=image_folder", "data.root=~/e")
    made = compose(words, quiet=True)
    assert made["distill"]["teacher"] == [str(tmp_path / "runs/a"), "timm:b", "/c"]
    assert made["init_from"] == str(tmp_path / "d.pt")
    assert made["data"]["root"] == str(Path("~/e").expanduser())
    assert compose(["model=custom", "model.file=net.py"], quiet=True)["model"]["file"] == str(tmp_path / "net.py")
    words = ("task=language_model", "data=text", "data.path=books", "data.vocabulary_from=runs/b")
    made = compose([*words, "data.test_path=more.txt", "model=hf", "model.path=gpt2"], quiet=True)
    paths = [made["data"][key] for key in ("path", "vocabulary_from", "test_path")] + [made["model"]["path"]]
    assert paths == [str(tmp_path / name) for name in ("books", "runs/b", "more.txt", "gpt2")]


@pytest.mark.slow
def test_a_configuration_without_paths_has_the_same_digest_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("distill=kd", "distill.teacher=torchvision:resnet18")
    here = compute_digest(compose(words, quiet=True))
    monkeypatch.chdir(tmp_path)
    assert compute_digest(compose(words, quiet=True)) == here
