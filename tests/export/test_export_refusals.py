"""What cannot be exported is refused before anything is written, with what works in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dnntrain.cli.main import main
from dnntrain.export.manifest import check_target


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--format=torchscript"], 2, "use --format pt2"),
        (["--format=onx"], 2, "did you mean 'onnx'"),
        (["--format=onnx", "quant.calibration_batches=4"], 2, "no effect with --format onnx"),
        (["--format=onnx_int8", "quant=int8_weight_only"], 2, "use --format pt2_int8"),
        (["--format=onnx_int8", "quant=none"], 2, "use quant=int8_static"),
        (["--format=onnx_int8", "quant.calibration_batch_size=2000"], 3, "calibration needs 2000 training examples"),
        (["--format=onnx_int8", "quant=float8"], 2, "use --format pt2_cuda"),
        (["--format=auto", "quant=float8"], 2, "use --format pt2_cuda"),
        (["--format=pt2_cuda", "quant=int8_dynamic"], 2, "use --format onnx_int8"),
        (["--format=onnx", "device=cuda"], 2, "--format onnx runs on device=cpu only"),
        (["--format=pt2_cuda", "device=cpu"], 2, "use device=cuda"),
        (["--format=onnx", "data=synthetic"], 3, "the model"),
        (["--format=onnx", "--threads=0"], 2, "--threads 0: 0 is not a whole number at least 1"),
    ],
)
def test_it_says_what_to_use_instead(
    words: list[str], code: int, reason: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), f"--path={tmp_path}/out", *words]) == code
    assert reason in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_folder_with_the_manifest_of_another_program_is_kept(run: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "my extension", "version": "1"}')
    (tmp_path / "thesis.txt").write_text("text")
    assert main(["export", str(run), "--format=safetensors", f"--path={tmp_path}"]) == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["manifest.json", "thesis.txt"]


@pytest.mark.parametrize("words", [".", "..", "../x"])
def test_the_current_folder_is_not_replaced(
    words: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    assert main(["export", str(run), "--format=safetensors", "--path", words]) == 2
    assert "is the current folder or one above it" in capsys.readouterr().err


def test_an_export_replaces_an_empty_folder_and_an_export(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    check_target(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text('{"schema": 99, "dnntrain": "9", "format": "pt2", "files": {}}')
    check_target(tmp_path / "out")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    assert main(["export", str(tmp_path), "--format=onnx"]) == 2
    assert main(["export"]) == 2


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("words", [["--format=pt2_cuda"], ["--format=pt2_cuda", "quant=float8"]])
def test_float8_is_refused_without_a_gpu_with_what_works_there(
    words: list[str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), f"--path={tmp_path}/out", *words]) == 2
    message = capsys.readouterr().err
    assert "capability 8.9 or more; this machine has a CPU" in message
    assert "use quant=int8_dynamic, or quant=int8_weight_only" in message
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["eval", "predict"])
def test_a_device_that_an_export_does_not_run_on_is_refused_not_put_aside(
    verb: str, exports: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = exports("onnx")
    capsys.readouterr()
    images = [str(tmp_path)] if verb == "predict" else []
    assert main([verb, str(folder), *images, "device=cuda"]) == 2
    first, fix = capsys.readouterr().err.splitlines()
    assert first == "dnntrain: --format onnx runs on device=cpu only, not on device=cuda"
    assert fix == "  use device=cpu, or an export of --format pt2"


def test_several_processes_would_write_the_same_files(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in world.items():
        monkeypatch.setenv(name, value)
    assert main(["export", str(run), "--format=onnx_int8", f"--path={tmp_path}/out"]) == 2
    assert "start it without torchrun" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
