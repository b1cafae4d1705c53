"""8-bit integers in ONNX Runtime: they run, they cost little accuracy, and a fallback to floats is found out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from export_facts import CONVOLUTIONS, LINEAR, read_details
from short_runs import result, trained

from dnntrain.cli.main import main
from dnntrain.errors import CheckpointError
from dnntrain.export.op_coverage import OpCoverage, check_share, measure_onnx_coverage

Folder = Callable[..., Path]


@pytest.mark.slow
@pytest.mark.parametrize("observer", ["minmax", "histogram", "percentile"])
def test_every_observer_keeps_the_accuracy(observer: str, run: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    words = [f"quant.observer={observer}", f"--path={place}", "quant.calibration_batches=4"]
    assert main(["export", str(run), "--format=onnx_int8", *words]) == 0
    assert read_details(place)["parity"]["drop"] <= 0.01


@pytest.mark.slow
def test_all_multiply_adds_run_in_integers_and_their_number_is_that_of_the_layers(exports: Folder) -> None:
    census = read_details(exports("onnx_int8"))["census"]
    assert census["macs"] == {"int8": CONVOLUTIONS + LINEAR}


def test_a_float_model_counts_as_float(exports: Folder) -> None:
    census = measure_onnx_coverage(exports("onnx") / "model.onnx", torch.zeros(2, 1, 8, 8))
    assert census.macs == {"fp32": CONVOLUTIONS + LINEAR}


@pytest.mark.slow
def test_dynamic_ranges_run_in_integers_too(run: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    assert main(["export", str(run), "--format=onnx_int8", "quant=int8_dynamic", f"--path={place}"]) == 0
    assert read_details(place)["census"]["shares"] == {"int8": 1.0}


@pytest.mark.slow
def test_an_integer_export_is_a_third_of_the_float_one_or_less(exports: Folder) -> None:
    assert (
        3 * (exports("onnx_int8") / "model_int8.onnx").stat().st_size < (exports("onnx") / "model.onnx").stat().st_size
    )


@pytest.mark.slow
def test_calibration_images_come_from_the_training_part_by_seed(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert main(["export", str(run), "--format=onnx_int8", f"--path={tmp_path}/{name}"]) == 0
    first, second = ((tmp_path / name / "model_int8.onnx").read_bytes() for name in ("a", "b"))
    assert first == second


def test_an_export_that_falls_back_to_float_is_refused() -> None:
    census = OpCoverage({"fp32": 900.0, "int8": 100.0})
    check_share(census, "int8", 0.1, "onnx_int8")
    with pytest.raises(CheckpointError, match=r"10.0 % int8.*less than quant.min_quantized_fraction=0.5"):
        check_share(census, "int8", 0.5, "onnx_int8")


@pytest.mark.slow
def test_more_loss_of_accuracy_than_allowed_fails_with_exit_code_5(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dnntrain.inference import export_run

    # Calibrated on images that are all zero, the ranges of activations are wrong for any real image.
    monkeypatch.setattr(
        export_run.ExportSource,
        "make_calibration_batches",
        lambda self, batches, batch_size: [torch.zeros(8, 1, 8, 8)] * batches,
    )
    assert main(["export", str(run), "--format=onnx_int8", f"--path={tmp_path}/out"]) == 5
    assert "quant.max_metric_drop" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_writes_the_export_that_its_quantisation_asks_for(tmp_path: Path) -> None:
    trained(tmp_path / "run", "quant=int8_static", "quant.backend=onnxruntime", "quant.max_metric_drop=0.2")
    written = result(tmp_path / "run")["export"]
    assert written["census"]["shares"] == {"int8": 1.0}
    assert main(["eval", str(tmp_path / "run" / "exports" / "onnx_int8")]) == 0
