"""Exports in floating point: each works far from its run, with the numbers of its source."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dnntrain.choices.data.digits import Digits
from dnntrain.cli.main import main
from dnntrain.errors import ConfigError
from dnntrain.export.output_dir import atomic_output_dir
from dnntrain.inference.load import load_model, load_run

Capture = pytest.CaptureFixture[str]
Folder = Callable[..., Path]

FORMATS = ("safetensors", "pt2", "onnx", "openvino")


def images(count: int) -> torch.Tensor:
    """Real test images of the digits, normalised by the data set's own figures."""
    data = Digits().build()
    pixels = torch.stack([data.test.read(number) for number in range(count)]).float() / 255
    return (pixels - data.inputs.mean[0]) / data.inputs.std[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_an_export_gives_the_logits_of_its_run_for_any_number_of_images(
    name: str, count: int, alone: Folder, run: Path
) -> None:
    model = load_run(run, ["device=cpu", "precision=fp32"]).model
    with torch.no_grad():
        expected = model(images(count))
        found = load_model(alone(name), trust=True).model(images(count))
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_eval_and_predict_need_the_export_alone(name: str, alone: Folder, tmp_path: Path, capsys: Capture) -> None:
    source = Digits().build().test
    for number in range(4):
        Image.fromarray(source.read(number)[0].numpy()).save(tmp_path / f"{number}.png")
    folder = alone(name)
    capsys.readouterr()
    assert main(["eval", str(folder), "--trust", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] > 0.8
    assert main(["predict", str(folder), str(tmp_path), "--trust", "--format=jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    probabilities = np.array([row["probability"] for row in rows])
    found = load_model(folder, trust=True).compute_outputs(images(4)).float().softmax(1).max(1).values.numpy()
    assert np.allclose(probabilities, found, atol=2e-6)


@pytest.mark.slow
def test_the_manifest_says_what_was_compared(exports: Folder) -> None:
    details = json.loads((exports("onnx") / "manifest.json").read_text())["details"]["parity"]
    assert details["part"] == "val"
    assert details["examples"] == 144
    assert details["agreement"] >= 0.999
    assert details["largest_error"] < 1e-4


@pytest.mark.slow
def test_an_onnx_file_alone_carries_classes_and_normalisation(exports: Folder, tmp_path: Path) -> None:
    file = tmp_path / "somewhere.onnx"
    file.write_bytes((exports("onnx") / "model.onnx").read_bytes())
    trained = load_model(file)
    assert trained.spec.output.names == tuple("0123456789")
    assert trained.spec.inputs == Digits().build().inputs
    assert trained.compute_outputs(images(3)).shape == (3, 10)


def test_the_weights_of_a_safetensors_export_are_those_of_the_run(exports: Folder, run: Path) -> None:
    from safetensors.torch import load_file

    source, copy = load_file(run / "model.safetensors"), load_file(exports("safetensors") / "model.safetensors")
    assert source.keys() == copy.keys()
    assert all(torch.equal(source[name], copy[name]) for name in source)


def test_an_export_is_evaluated_on_other_parts_and_settings_of_its_data(exports: Folder, capsys: Capture) -> None:
    words = ["eval", str(exports("safetensors")), "--split=val", "data.val_fraction=0.5", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["examples"] > 144


def test_an_export_takes_the_place_of_an_earlier_one_and_of_nothing_else(run: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    assert main(["export", str(run), "--format=safetensors", f"--path={place}"]) == 0
    assert main(["export", str(run), "--format=safetensors", f"--path={place}"]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert main(["export", str(run), "--format=safetensors", f"--path={tmp_path}/mine"]) == 2
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["mine", "place"]


def test_what_a_killed_export_left_is_removed_and_another_process_keeps_its_own(run: Path, tmp_path: Path) -> None:
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    ).stdout
    left = tmp_path / f".mine.tmp-{socket.gethostname()}-{gone.strip()}"
    left_of_another_target = tmp_path / f".other.tmp-{socket.gethostname()}-{gone.strip()}"
    working = tmp_path / f".mine.tmp-{socket.gethostname()}-{os.getppid()}"
    elsewhere = tmp_path / f".mine.tmp-another-host-{gone.strip()}"
    similar = tmp_path / f".mine.tmp-{socket.gethostname()}-1-{gone.strip()}"
    for folder in (left, left_of_another_target, working, elsewhere, similar):
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"half")
    assert main(["export", str(run), "--format=safetensors", f"--path={tmp_path / 'mine'}"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {working.name, elsewhere.name, similar.name, "mine"}


def test_what_was_left_by_a_process_of_the_same_number_is_removed_and_other_names_are_kept(tmp_path: Path) -> None:
    target = tmp_path / "[ab]"
    left, others = tmp_path / f".[ab].tmp-{socket.gethostname()}-{os.getpid()}", tmp_path / ".a.tmp-999999999"
    for folder in (left, others):
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"half")
    with atomic_output_dir(target) as folder:
        assert list(folder.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [others.name, "[ab]"]


def test_a_target_that_cannot_be_replaced_is_found_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model"
    target.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != target)
    with pytest.raises(ConfigError, match="read-only"), atomic_output_dir(target):
        pytest.fail("nothing is converted")
