"""`format=auto`: ships what was fastest at each batch size, and what it ships works alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from short_runs import trained

from dnntrain.bench import fastest_export
from dnntrain.bench.measure import BenchResult
from dnntrain.cli.main import main
from dnntrain.inference.load import load_model

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only formats that need no compiling, timed for an instant."""
    monkeypatch.setattr(
        fastest_export,
        "EXPORT_CANDIDATES",
        [option for option in fastest_export.EXPORT_CANDIDATES if "onnx" in option.name],
    )
    monkeypatch.setitem(fastest_export.export_fastest.__kwdefaults__, "rounds", 1)
    monkeypatch.setitem(fastest_export.export_fastest.__kwdefaults__, "seconds", 0.01)


def won_by(monkeypatch: pytest.MonkeyPatch, winners: dict[int, str]) -> None:
    """Decides who is the fastest, whatever the clock says."""

    def fastest(timed: list[BenchResult], batch: int) -> BenchResult:
        return next(found for found in timed if found.name == winners[batch])

    monkeypatch.setattr(fastest_export, "find_fastest", fastest)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_one_winner_stands_alone(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    won_by(monkeypatch, {1: "onnx_int8", 8: "onnx_int8"})
    assert main(["export", str(run), "--format=auto", "--batches=1,8", "--threads=1", f"--path={tmp_path}/out"]) == 0
    assert "batch 8: onnx_int8 is the fastest" in capsys.readouterr().err
    assert sorted(item.name for item in (tmp_path / "out").iterdir()) == ["manifest.json", "model_int8.onnx"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    measured = {
        found["name"]: found["batches"]["8"]["images_per_s"] for found in manifest["details"]["auto"]["measured"]
    }
    assert measured.keys() == {"onnx", "onnx_int8"}
    assert main(["eval", f"{tmp_path}/out"]) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_two_winners_are_shipped_and_each_gets_the_batches_it_won(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    won_by(monkeypatch, {1: "onnx", 8: "onnx_int8"})
    assert main(["export", str(run), "--format=auto", "--batches=1,8", "--threads=1", f"--path={tmp_path}/out"]) == 0
    auto, floating, integers = (
        load_model(path) for path in (tmp_path / "out", tmp_path / "out" / "onnx", tmp_path / "out" / "onnx_int8")
    )
    images = torch.randn(9, 1, 8, 8)
    assert torch.equal(auto.compute_outputs(images[:3]), floating.compute_outputs(images[:3]))
    assert torch.equal(auto.compute_outputs(images), integers.compute_outputs(images))
    shutil.rmtree(tmp_path / "out" / "onnx")
    assert main(["eval", f"{tmp_path}/out"]) == 5


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_what_loses_too_much_accuracy_is_left_out_with_the_reason(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from dnntrain.inference import export_run

    monkeypatch.setattr(
        export_run.ExportSource,
        "make_calibration_batches",
        lambda self, batches, batch_size: [torch.zeros(8, 1, 8, 8)] * batches,
    )
    assert main(["export", str(run), "--format=auto", "--batches=1", "--threads=1", f"--path={tmp_path}/out"]) == 0
    assert "onnx_int8 is skipped" in capsys.readouterr().err
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_settings_without_effect_are_refused(run: Path, capsys: Capture) -> None:
    assert main(["export", str(run), "--format=onnx", "--batches=1"]) == 2
    assert main(["export", str(run), "--format=onnx", "--runtime=compiled"]) == 2
    assert main(["export", str(run), "--format=pt2", "--runtime=compild"]) == 2
    assert "did you mean 'compiled'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_run_measures_at_the_batch_sizes_that_it_names(tmp_path: Path) -> None:
    words = ("train.duration=1ep", "quant=int8_static", "quant.max_metric_drop=0.9")
    done = trained(tmp_path / "run", *words, "quant.bench_batch_sizes=[4,2,4]")
    assert done["export"]["auto"]["choices"].keys() == {"2", "4"}


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["--format=onnx_int8", "quant.bench_batch_sizes=[8]"], "use --format auto"),
        (["--format=pt2_int8", "quant.backend=onnxruntime"], "use --format onnx_int8"),
        (["--format=auto", "quant.backend=inductor"], "use --format pt2_int8"),
        (["--format=auto", "--batches=8", "quant.bench_batch_sizes=[8]"], "keep --batches 8"),
        (["--format=auto", "quant.bench_batch_sizes=[]"], "use quant.bench_batch_sizes=[1,64]"),
        (["--format=onnx_int8", "quant.percentile=99"], "use quant.observer=percentile"),
    ],
)
def test_knobs_of_integers_without_effect_are_refused(
    words: list[str], fix: str, short_run: Path, capsys: Capture
) -> None:
    assert main(["export", str(short_run), *words]) == 2
    assert fix in capsys.readouterr().err
