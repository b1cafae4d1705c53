"""Runs of a user's own code: objects from Python train like files, resume, and a stranger's file never runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import own_parts
import pytest
import yaml
from short_runs import broken_off, comparable

import dnntrain
from dnntrain.cli.main import main
from dnntrain.config.compose import compose
from dnntrain.config.saved_config import write_saved_config
from dnntrain.errors import ConfigError

FILE = own_parts.__file__
SHORT = (
    "train.duration=6step",
    "train.batch_size=32",
    "eval.every=3step",
    "checkpoint.every=3step",
    "checkpoint.keep_last=9",
    "log.every=1step",
    "log.report=false",
    "train.cpu_threads=1",
    "precision=fp32",
)
PARTS = (
    "task=custom",
    f"task.file={FILE}",
    "task.loss=hinge",
    "task.metrics=[worst_recall]",
    "augment=[custom]",
    f"augment.custom.file={FILE}",
    "augment.custom.name=posterize",
    "optim=custom",
    f"optim.file={FILE}",
    "optim.lr=0.05",
    "sched=custom",
    f"sched.file={FILE}",
    "sched.name=sawtooth",
)
DATA = (own_parts.make_bars(True), own_parts.make_bars(False))


def by_file(folder: Path, *words: str) -> Path:
    files = [f"{part}.file={FILE}" for part in ("data", "model")]
    words = ("data=custom", "data.name=make_bars", "model=custom", *files, *words)
    dnntrain.train(*SHORT, *words, f"run_dir={folder}", display="quiet")
    return folder


def by_object(folder: Path, *words: str) -> Path:
    dnntrain.train(*SHORT, *words, f"run_dir={folder}", model=own_parts.Net(), data=DATA, display="quiet")
    return folder


@pytest.mark.slow
def test_objects_train_as_files_and_are_resumed(tmp_path: Path) -> None:
    rows: list[Any] = []
    dnntrain.train(
        *SHORT,
        f"run_dir={tmp_path / 'objects'}",
        model=own_parts.Net(),
        data=DATA,
        callbacks=[rows.append],
        display="quiet",
    )
    assert comparable(by_file(tmp_path / "files")) == comparable(tmp_path / "objects")
    assert len(rows) == len(comparable(tmp_path / "objects"))
    broken_off(tmp_path / "objects", tmp_path / "again", 3)
    by_object(tmp_path / "again")
    assert comparable(tmp_path / "again") == comparable(tmp_path / "objects")
    models = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("objects", "again", "files")]
    assert models[0] == models[1] == models[2]

    config = yaml.safe_load((tmp_path / "objects" / "config.yaml").read_text())
    assert config["model"]["from_python"] is config["data"]["from_python"] is True
    with pytest.raises(ConfigError, match="give it again"):
        dnntrain.load(tmp_path / "objects")
    figures = dnntrain.evaluate(tmp_path / "objects", model=own_parts.Net(), data=DATA)
    assert figures["examples"] == 40


@pytest.mark.slow
def test_several_new_processes_do_not_have_the_objects(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 ranks are new processes"):
        by_object(tmp_path / "run", "parallel=ddp", "launch.nproc=2")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which each part is of a file."""
    return by_file(tmp_path_factory.mktemp("own") / "run", *PARTS)


@pytest.mark.slow
def test_a_run_of_all_parts_is_resumed_to_the_bit(own_run: Path, tmp_path: Path) -> None:
    broken_off(own_run, tmp_path / "again", 3)
    by_file(tmp_path / "again", *PARTS)
    assert comparable(tmp_path / "again") == comparable(own_run)
    assert "worst_recall" in comparable(own_run)[-1]
    assert "worst_recall" in dnntrain.evaluate(own_run, trust=True)


@pytest.mark.slow
def test_the_rows_of_all_parts_are_those_of_other_layouts(own_run: Path, tmp_path: Path) -> None:
    by_file(tmp_path / "micro", *PARTS, "train.micro_batch_size=8")
    whole, micro = (
        [row["loss"] for row in comparable(run) if row["split"] == "train"] for run in (own_run, tmp_path / "micro")
    )
    assert whole == pytest.approx(micro, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["data", "task", "optim", "sched", "augment.custom"])
def test_a_file_that_a_strangers_run_names_does_not_run(
    part: str, own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = shutil.copytree(own_run, tmp_path / "foreign")
    evil = tmp_path / "evil.py"
    evil.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'mark')!r}).touch()\n")
    values = yaml.safe_load((foreign / "config.yaml").read_text())
    group, _, name = part.partition(".")
    (values[group][name] if name else values[group])["file"] = str(evil)
    write_saved_config(foreign, values)
    words = ["model.file=" + FILE, *(["data.file=" + FILE] if part != "data" else [])]
    words += ["task.file=" + FILE] if part != "task" else []
    trusted = [f"{key}.file={FILE}" for key in ("optim", "sched", "augment.custom") if key != part]
    for command in (
        ["resume", str(foreign), *words, *trusted, "-q"],
        *([["eval", str(foreign), *words]] if part in ("data", "task") else []),
    ):
        assert main(command) != 0, command
        assert f"{part}.file={evil}" in capsys.readouterr().err
    (foreign / "result.json").unlink()
    (foreign / "model.safetensors").unlink()
    assert main(["eval", str(foreign), *words]) != 0
    assert not (tmp_path / "mark").exists()


def test_mistakes_of_files_are_found_before_torch(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        dnntrain.train("optim=custom", "optim.file=a.py", "sched=custom", "sched.file=b.py", "data=custom")
    for text in ("a.py is not a file", "b.py is not a file", "data=custom needs data.file"):
        assert text in str(caught.value)
    assert compose(["augment=[custom]", "augment.custom.file=x.py"], quiet=True)["augment"]["custom"][
        "file"
    ].startswith("/")
