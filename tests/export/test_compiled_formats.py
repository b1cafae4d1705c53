"""Formats that compile: integers in Inductor, and machine code of AOTInductor."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from dnntrain.cli.main import main
from dnntrain.export.compiled import CompiledModel
from dnntrain.export.manifest import read_manifest, write_manifest
from dnntrain.export.op_coverage import measure_torch_coverage
from dnntrain.inference.load import load_model, load_run

Folder = Callable[..., Path]

#: Multiply-adds of the default network on one image of 8x8, from the sizes of its layers.
MACS = 36 * 32 * 9 * 1 + 16 * 64 * 9 * 32 + 256 * 128 + 128 * 10


def details(folder: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads((folder / "manifest.json").read_text())["details"]
    return found


@pytest.mark.slow
def test_inductor_runs_every_multiply_add_in_integers(exports: Folder) -> None:
    assert details(exports("pt2_int8"))["census"]["macs"] == {"int8": MACS}


@pytest.mark.slow
def test_the_command_says_nothing_but_its_own_lines(
    run: Path, tmp_path: Path, dnntrain: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    # A toolkit without a GPU is what Inductor has something to say about.
    done = dnntrain("export", str(run), "--format=pt2_int8", f"--path={tmp_path}/out", CUDA_HOME=str(tmp_path))
    assert done.returncode == 0
    words = [line.split()[0] for line in done.stderr.splitlines() if not line.startswith("calibrating:")]
    assert words == ["calibrating", "pt2_int8:"]


@pytest.mark.slow
def test_the_float_weights_are_not_saved_beside_the_integer_ones(exports: Folder) -> None:
    program = torch.export.load(exports("pt2_int8") / "model.pt2")
    floats = sum(tensor.numel() for tensor in program.state_dict.values() if tensor.is_floating_point())
    # Scales and biases, one a channel each; a weight of any layer alone would be more.
    assert floats <= 4 * (32 + 64 + 128 + 10)


@pytest.mark.slow
def test_an_integer_program_read_back_in_a_new_process_still_runs_in_integers(alone: Folder) -> None:
    census = measure_torch_coverage(load_model(alone("pt2_int8"), trust=True).compute_outputs, torch.zeros(2, 1, 8, 8))
    assert census.macs == {"int8": MACS}


@pytest.mark.slow
@pytest.mark.parametrize("observer", ["histogram", "percentile"])
def test_every_observer_of_inductor_keeps_the_accuracy(observer: str, run: Path, tmp_path: Path) -> None:
    words = ["--format=pt2_int8", f"quant.observer={observer}", "quant.calibration_batches=4", f"--path={tmp_path}/out"]
    assert main(["export", str(run), *words]) == 0
    assert details(tmp_path / "out")["parity"]["drop"] <= 0.01


@pytest.mark.slow
def test_dynamic_ranges_of_a_convolutional_network_fall_back_to_float_and_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--format=pt2_int8", "quant=int8_dynamic", f"--path={tmp_path}/out"]
    assert main(["export", str(run), *words]) == 5
    assert "quant.min_quantized_fraction=0.5" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_machine_code_gives_the_logits_of_its_run_for_any_number_of_images(alone: Folder, run: Path) -> None:
    model, export = load_run(run, ["device=cpu", "precision=fp32"]).model, load_model(alone("aoti"), trust=True).model
    for count in (1, 5):
        images = torch.randn(count, 1, 8, 8)
        with torch.no_grad():
            assert torch.allclose(export(images), model(images), atol=1e-4)


@pytest.mark.slow
def test_the_census_of_machine_code_is_of_what_onednn_executed(exports: Folder) -> None:
    census = details(exports("aoti"))["census"]
    assert census["macs"] == {"fp32": MACS}
    assert "onednn convolution" in census["operators"]


@pytest.mark.slow
def test_machine_code_for_another_processor_is_refused(alone: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    folder = alone("aoti")
    manifest = read_manifest(folder)
    manifest.details["machine"]["features"].append("a_feature_of_tomorrow")
    write_manifest(folder, manifest, list(manifest.files))
    assert main(["eval", str(folder), "--trust"]) == 5
    assert "a_feature_of_tomorrow" in capsys.readouterr().err


@pytest.mark.slow
def test_scales_for_whole_tensors_are_refused_for_inductor(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--format=pt2_int8", "quant.per_channel=false", f"--path={tmp_path}/out"]
    assert main(["export", str(run), *words]) == 2
    assert "quant.backend=onnxruntime" in capsys.readouterr().err


def test_the_census_counts_float_layers_of_torch() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1, groups=2), nn.Flatten(), nn.Linear(6 * 4 * 4, 5)
    ).eval()
    census = measure_torch_coverage(model, torch.zeros(3, 2, 8, 8))
    assert census.macs == {"fp32": 6 * 4 * 4 * 9 + 96 * 5}


def test_the_census_tells_bfloat16_from_float32() -> None:
    model = nn.Linear(16, 8).eval()

    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(images)  # type: ignore[no-any-return]

    assert measure_torch_coverage(run, torch.zeros(2, 16)).macs == {"bf16": 16 * 8}


@pytest.mark.slow
def test_a_smaller_batch_than_one_met_compiles_nothing_and_gives_the_same() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
    run = CompiledModel(model)
    images = torch.randn(6, 3, 2, 2)
    with torch.no_grad():
        whole = run(images)
    with torch.compiler.set_stance("fail_on_recompile"):
        part = run(images[:4])
    assert torch.allclose(part, whole[:4], atol=1e-6)
    assert torch.allclose(whole, model(images), atol=1e-5)
