"""`dnntrain bench`: runs and exports side by side, in processes of their own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from dnntrain.cli.main import main
from dnntrain.export.manifest import read_manifest, write_manifest

Capture = pytest.CaptureFixture[str]
FAST = ("--rounds=2", "--seconds=0.01", "--threads=1")


@pytest.mark.slow
def test_a_run_and_its_export_are_measured_side_by_side(short_run: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["export", str(short_run), "--format=onnx", f"--path={tmp_path}/onnx"]) == 0
    capsys.readouterr()
    words = ["--runtimes=eager_fp32", "--batches=4,1", f"--csv={tmp_path}/t.csv", f"--picture={tmp_path}/t.png", *FAST]
    assert main(["bench", str(short_run), f"{tmp_path}/onnx", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    eager, onnx = found["models"]
    assert found["machine"]["threads"] == 1
    assert eager["accuracy"] == pytest.approx(onnx["accuracy"], abs=0.003)
    assert eager["batches"]["1"]["ratio"] == [1, 1, 1]
    for model in (eager, onnx):
        assert list(model["batches"]) == ["1", "4"]
        latency = model["batches"]["1"]["latency_ms"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
        low, median, high = (model["batches"]["4"]["images_per_s"][place] for place in (1, 0, 2))
        assert 0 < low <= median <= high
        assert model["size_bytes"] > 0
        assert model["load_s"] > 0
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["batch"] for row in rows] == ["1", "4", "1", "4"]
    with Image.open(tmp_path / "t.png") as picture:
        assert picture.size[0] > 600


@pytest.mark.parametrize("words", [("bench", "RUN"), ("why",), ("tune", "speed")])
def test_commands_that_measure_do_not_run_under_torchrun(
    words: tuple[str, ...], short_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([str(short_run) if word == "RUN" else word for word in words]) == 2
    assert "cannot run under torchrun, because all ranks would measure at the same time" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--runtimes=eager_fp23"], "did you mean 'eager_fp32'"),
        (["--batches=0"], "as in --batches 1,64"),
        (["--threads=4096"], "must be <= "),
        (["--seconds=never"], "as in --seconds 0.2"),
        (["--csv=/nowhere/at/all.csv"], "there is no folder /nowhere/at"),
        (["--csv=/sys/all.csv"], "cannot be written"),
        (["--picture=all.foo"], "use --picture all.png"),
        (["--picture=/"], "name a file, as in --picture /bench.png"),
        (["--exports=perhaps"], "--exports takes no value"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(words: list[str], reason: str, short_run: Path, capsys: Capture) -> None:
    assert main(["bench", str(short_run), *words]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_left_out_aloud(short_run: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["export", str(short_run), "--format=onnx", f"--path={tmp_path}/onnx"]) == 0
    folder = tmp_path / "onnx"
    (folder / "model.onnx").write_bytes(b"")
    line = ["bench", str(short_run), f"{tmp_path}/onnx", "--runtimes=eager_fp32", "--batches=1", *FAST]
    assert main(line) == 5
    assert "model.onnx is damaged or was altered" in capsys.readouterr().err
    manifest = read_manifest(folder)
    write_manifest(folder, manifest, list(manifest.files))
    assert main(line) == 0
    captured = capsys.readouterr()
    assert "skipped" in captured.err
    assert "eager fp32" in captured.out
