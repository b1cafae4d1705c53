"""A run directory of a stranger is data: nothing in it runs code, submits a job, sends or fetches."""

from __future__ import annotations

import json
import re
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from dnntrain.checkpoint.model_card import seal_card
from dnntrain.cli.main import main
from dnntrain.config.saved_config import write_saved_config
from dnntrain.export.manifest import read_manifest, write_manifest

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def foreign(short_run: Path, tmp_path: Path) -> Path:
    """A copy of a run, as a stranger sends it."""
    return shutil.copytree(short_run, tmp_path / "foreign")


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A Python file that leaves a mark if it is run."""
    file = tmp_path / "evil.py"
    file.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'mark')!r}).touch()\n")
    return file


def forge(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the configuration of a run, with a valid checksum: a stranger can compute it too."""
    values = yaml.safe_load((folder / "config.yaml").read_text())
    change(values)
    write_saved_config(folder, values)


def run_every_command(folder: Path, tmp_path: Path, *words: str) -> list[int]:
    """Return the exit codes of the commands that open a run."""
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    return [
        main(["eval", str(folder), *words]),
        main(["predict", str(folder), str(tmp_path / "image.png")]),
        main(["export", str(folder), f"--path={tmp_path / 'export'}", *words]),
        main(
            ["bench", str(folder), "--runtimes=eager_fp32", "--rounds=1", "--seconds=0.01", "--batches=1", "--accuracy"]
        ),
        main(["resume", str(folder), *words, "-q"]),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("label", ["custom", ["custom"], "nowhere", "small_cnn", None])
def test_the_file_of_a_custom_model_does_not_run(
    foreign: Path, evil: Path, tmp_path: Path, label: Any, capsys: Capture
) -> None:
    def change(values: dict[str, Any]) -> None:
        values["model"] = {"name": "custom", "file": str(evil), "entry_point": None, "args": {}, "from_python": False}
        values["choices"]["model"] = label

    forge(foreign, change)
    assert 0 not in run_every_command(foreign, tmp_path)
    assert not (tmp_path / "mark").exists()
    assert "--trust" in capsys.readouterr().err


def test_trust_runs_it(foreign: Path, evil: Path, tmp_path: Path) -> None:
    forge(
        foreign,
        lambda values: values.update(
            model={"name": "custom", "file": str(evil), "entry_point": None, "args": {}, "from_python": False}
        ),
    )
    assert main(["eval", str(foreign), "--trust"]) == 2  # the file defines no network
    assert (tmp_path / "mark").exists()


def test_the_file_that_runs_is_the_one_that_the_command_names(foreign: Path, evil: Path, tmp_path: Path) -> None:
    forge(
        foreign,
        lambda values: values.update(
            model={"name": "custom", "file": str(evil), "entry_point": None, "args": {}, "from_python": False}
        ),
    )
    (tmp_path / "mine.py").write_text("import torch\n")
    assert main(["eval", str(foreign), f"model.file={tmp_path / 'mine.py'}"]) == 2
    assert not (tmp_path / "mark").exists()


@pytest.mark.slow
@pytest.mark.parametrize("words", ["model=custom model.file=EVIL", "launch=slurm 'launch.setup=[touch MARK]'", "'"])
def test_the_recorded_words_change_nothing(
    foreign: Path, evil: Path, tmp_path: Path, words: str, capsys: Capture
) -> None:
    assert main(["eval", str(foreign), "eval.batch_size=64", "--json"]) == 0
    before = capsys.readouterr().out
    text = words.replace("EVIL", str(evil)).replace("MARK", str(tmp_path / "mark"))
    (foreign / "overrides.txt").write_text(text.replace(" ", "\n"))
    assert main(["eval", str(foreign), "eval.batch_size=64", "--json"]) == 0
    assert capsys.readouterr().out == before
    assert main(["resume", str(foreign), "-q"]) == (5 if words == "'" else 0)
    assert not (tmp_path / "mark").exists()


@pytest.mark.slow
def test_no_job_is_submitted_with_the_commands_of_a_stranger(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(f"#!/bin/sh\ntouch {tmp_path / 'mark'}\necho 1\n")
    sbatch.chmod(sbatch.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")

    def change(values: dict[str, Any]) -> None:
        from dnntrain.config.compose import compose

        values["launch"] = compose(["launch=slurm", "launch.setup=[touch it]"])["launch"]
        values["choices"]["launch"] = "local"

    forge(foreign, change)
    (foreign / "result.json").unlink()
    assert main(["resume", str(foreign)]) == 2
    assert "launch.setup=[touch it]" in capsys.readouterr().err
    assert not (tmp_path / "mark").exists()
    assert main(["eval", str(foreign)]) == 0


def test_metrics_are_not_sent_to_the_address_of_a_stranger(foreign: Path, capsys: Capture) -> None:
    def change(values: dict[str, Any]) -> None:
        values["track"] = {
            "mlflow": {"name": "mlflow", "uri": "http://203.0.113.1", "experiment": "x", "every_rows": 1}
        }

    forge(foreign, change)
    (foreign / "result.json").unlink()
    assert main(["resume", str(foreign)]) == 2
    assert "track.mlflow.uri=http://203.0.113.1" in capsys.readouterr().err


@pytest.mark.slow
def test_nothing_is_downloaded_for_a_saved_configuration(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(
        "dnntrain.choices.data._cifar.download_data_set", lambda root, name: fetched.append(f"{root} {name}")
    )

    def change(values: dict[str, Any]) -> None:
        from dnntrain.config.compose import compose

        values["data"] = compose(["data=cifar10", f"data.root={tmp_path}/none", "data.download=true"])["data"]

    forge(foreign, change)
    for command in (["eval"], ["eval", "--trust"], ["export"], ["resume"]):
        assert main([*command, str(foreign)]) == 3
        assert "data.download=true" in capsys.readouterr().err
    assert fetched == []
    assert main(["eval", str(foreign), "data.download=true"]) == 3
    assert fetched


TEXT_FILES = ("config.yaml", "config.json", "plan.json")


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.parametrize("name", TEXT_FILES)
@pytest.mark.parametrize("words", [[], ["eval.batch_size=32"]])
def test_every_changed_digit_of_a_file_that_answers_depend_on_is_noticed(
    foreign: Path, name: str, words: list[str], capsys: Capture
) -> None:
    path = foreign / name
    text = path.read_text()
    matches = list(re.finditer(r"(?<![\w#])\d+(?=[^\w#])", text))
    for match in matches[:: max(1, len(matches) // 5)]:
        changed = str(int(match[0]) + 1)
        path.write_text(f"{text[: match.start()]}{changed}{text[match.end() :]}")
        assert main(["eval", str(foreign), *words]) == 5
        assert name in capsys.readouterr().err


@pytest.mark.parametrize("name", TEXT_FILES)
def test_a_truncated_file_that_answers_depend_on_is_noticed(foreign: Path, name: str, capsys: Capture) -> None:
    data = (foreign / name).read_bytes()
    for share in (0.2, 0.9):
        (foreign / name).write_bytes(data[: int(share * len(data))])
        assert main(["eval", str(foreign)]) == 5
        assert name in capsys.readouterr().err


def test_a_changed_class_name_is_noticed(foreign: Path, capsys: Capture) -> None:
    card = json.loads((foreign / "config.json").read_text())
    card["label_names"][3] = "three"
    (foreign / "config.json").write_text(json.dumps(card))
    assert main(["eval", str(foreign)]) == 5
    (foreign / "config.json").write_text(json.dumps(seal_card(card)))
    assert main(["eval", str(foreign)]) == 3  # the data do not have the class "three"
    assert main(["eval", str(foreign), "--map", "3=three"]) == 0


@pytest.mark.slow
def test_plan_does_not_go_to_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("plan went to the network")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    data = ["data=synthetic", "data.channels=3", "data.image_size=32"]
    words = ["model=torchvision", "model.name=mobilenet_v3_small", "model.weights=DEFAULT", "model.download=true"]
    assert main(["plan", *data, *words]) == 0
    assert (
        main(["plan", *data, "model=timm", "model.name=resnet10t", "model.pretrained=true", "model.download=true"]) == 0
    )
    wrong = [word.replace("DEFAULT", "IMAGENET1K_V9") for word in words]
    assert main(["plan", *data, *wrong]) == 2
    assert "has no such weights" in capsys.readouterr().err
    classes = ["data.num_classes=1000", "data.train_size=2000", "data.test_size=1000", "data.val_fraction=0"]
    assert main(["plan", *data, *classes, "distill=kd", "distill.teacher=timm:resnet10t", "model=mlp"]) == 2
    assert "dnntrain plan downloads nothing" in capsys.readouterr().err
    assert main(["plan", "data=cifar10", f"data.root={tmp_path}", "data.download=true"]) == 3


@pytest.mark.slow
def test_the_file_of_an_export_that_runs_is_the_one_that_the_command_names(
    foreign: Path, evil: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = tmp_path / "export"
    assert main(["export", str(foreign), f"--path={folder}"]) == 0
    manifest = read_manifest(folder)
    model = {"name": "custom", "file": str(evil), "entry_point": None, "args": {}, "from_python": False}
    config = {**manifest.config, "model": model, "choices": {**manifest.config["choices"], "model": ["custom"]}}
    write_manifest(folder, replace(manifest, config=config), list(manifest.files))
    assert main(["eval", str(folder)]) == 2
    assert "--trust" in capsys.readouterr().err
    (tmp_path / "mine.py").write_text("import torch\n")
    assert main(["eval", str(folder), f"model.file={tmp_path / 'mine.py'}"]) == 2
    assert not (tmp_path / "mark").exists()
    assert main(["eval", str(folder), "--trust"]) == 2
    assert (tmp_path / "mark").exists()
