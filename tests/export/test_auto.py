"""`format=auto`: ships what was fastest at each batch size, and what it ships works alone."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from short_runs import trained

from dnntrain.bench import fastest_export
from dnntrain.bench.fastest_export import ExportCandidate
from dnntrain.bench.measure import BenchResult, Candidate
from dnntrain.choices.quant.int8_static import Int8Static
from dnntrain.cli.main import main
from dnntrain.errors import DataError, Interrupted
from dnntrain.inference.load import load_model
from dnntrain.utils.signals import SignalReceived

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


def make_exports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, errors: dict[str, BaseException]
) -> tuple[list[str], dict[str, str]]:
    """Return the names of the exports that are made, and the reasons of the others, which raise `errors`."""

    def write(subject: object, name: str, target: Path, *others: object, **options: object) -> str:
        if name in errors:
            raise errors[name]
        return name

    monkeypatch.setattr(fastest_export, "get_installed_format", lambda name: name)
    monkeypatch.setattr(fastest_export, "write_export", write)
    candidates = [ExportCandidate(name, name) for name in ("onnx", "aoti", "pt2_int8", "pt2")]
    subject, quant = cast("Any", None), Int8Static()
    cards, reasons = fastest_export.export_all(subject, tmp_path, quant, candidates, lambda text: None)
    return list(cards), reasons


def test_an_export_that_fails_in_any_way_is_left_out_with_the_first_line_of_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    errors: dict[str, BaseException] = {
        "aoti": RuntimeError("No working C++ compiler found in inductor\nSet TORCH_LOGS for more"),
        "pt2_int8": DataError("calibration needs 64 training examples, but there are 20"),
    }
    made, reasons = make_exports(monkeypatch, tmp_path, errors)
    assert made == ["onnx", "pt2"]
    assert reasons == {
        "aoti": "RuntimeError: No working C++ compiler found in inductor",
        "pt2_int8": "calibration needs 64 training examples, but there are 20",
    }


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SignalReceived(signal.SIGTERM), Interrupted("SIGINT: stopped")])
def test_a_request_to_stop_ends_all_exports(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(type(error)):
        make_exports(monkeypatch, tmp_path, {"aoti": error})


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_all_exports_are_timed_on_the_processor_and_those_that_cannot_be_have_a_reason(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Candidate] = []

    def measure(candidates: list[Candidate], *others: Any, skip: Any, **options: Any) -> list[BenchResult]:
        asked.extend(candidates)
        first = replace(candidates[0], request={**candidates[0].request, "path": "/nowhere"})
        return measure_candidates([first, *candidates[1:]], *others, skip=skip, **options)

    measure_candidates = fastest_export.measure_candidates
    monkeypatch.setattr(fastest_export, "measure_candidates", measure)
    words = ["--format=auto", "--batches=1", "--threads=1", f"--path={tmp_path}/out", "quant.max_metric_drop=0.9"]
    assert main(["export", str(run), *words]) == 0
    assert [candidate.request["overrides"] for candidate in asked] == [["device=cpu"]] * 2
    details = json.loads((tmp_path / "out" / "manifest.json").read_text())["details"]["auto"]
    assert details["choices"] == {"1": "onnx_int8"}
    assert "/nowhere" in details["left_out"]["onnx"]


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
