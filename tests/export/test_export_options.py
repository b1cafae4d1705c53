"""Opset, half precision and a fixed batch: written, recorded, and used by the commands that read the export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from small_texts import RUN, write_texts

from dnntrain.choices.data.digits import Digits
from dnntrain.cli.command_table import COMMANDS
from dnntrain.cli.main import main
from dnntrain.errors import CheckpointError
from dnntrain.export.format_names import FORMAT_NAMES
from dnntrain.export.formats import get_format
from dnntrain.export.options import ExportOptions, read_fixed_batch, repeat_examples, run_in_fixed_batches
from dnntrain.export.parity import Parity, measure_parity
from dnntrain.inference import export_run
from dnntrain.inference.load import load_model, load_run

Capture = pytest.CaptureFixture[str]


def images(count: int) -> torch.Tensor:
    data = Digits().build()
    pixels = torch.stack([data.test.read(number) for number in range(count)]).float() / 255
    return (pixels - data.inputs.mean[0]) / data.inputs.std[0]


def export(run: Path, target: Path, *words: str) -> dict[str, object]:
    assert main(["export", str(run), f"--path={target}", *words]) == 0
    manifest: dict[str, object] = json.loads((target / "manifest.json").read_text())
    return manifest


def test_each_option_is_offered_for_the_formats_that_support_it() -> None:
    offered = {option.name: option.needs for option in COMMANDS["export"].options}
    for name in ("opset", "half", "batch"):
        needs = offered[name]
        assert needs is not None
        supporting = {format_name for format_name in FORMAT_NAMES if name in get_format(format_name).options}
        assert needs == ("format", needs[1])
        assert set(needs[1]) == supporting


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
def test_a_fixed_batch_serves_any_number_of_examples(count: int) -> None:
    sizes: list[int] = []

    def run(inputs: torch.Tensor) -> torch.Tensor:
        sizes.append(len(inputs))
        return inputs * 2

    inputs = torch.arange(count * 3.0).reshape(count, 3)
    assert torch.equal(run_in_fixed_batches(run, 4)(inputs), inputs * 2)
    assert set(sizes) == {4}


def test_examples_are_repeated_in_turn() -> None:
    assert repeat_examples(torch.tensor([1, 2, 3]), 5).tolist() == [1, 2, 3, 1, 2]
    assert repeat_examples(torch.tensor([1]), 2).tolist() == [1, 1]


@pytest.mark.parametrize("batch", [0, -1, "8", True, 2.0])
def test_a_manifest_with_a_wrong_batch_is_not_used(batch: object) -> None:
    with pytest.raises(CheckpointError):
        read_fixed_batch({"batch": batch}, "somewhere")
    assert read_fixed_batch({}, "somewhere") is None
    assert ExportOptions().as_json() == {}


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["onnx", "onnx_int8", "pt2"])
def test_a_model_of_a_fixed_batch_predicts_any_number(format_name: str, run: Path, tmp_path: Path) -> None:
    manifest = export(run, tmp_path / "out", f"--format={format_name}", "--batch=3")
    details = manifest["details"]
    assert isinstance(details, dict)
    assert details["batch"] == 3
    assert manifest["input"]["shape"] == [3, 1, 8, 8]  # type: ignore[index]
    model_file = next(file for file in (tmp_path / "out").iterdir() if file.suffix in (".onnx", ".pt2"))
    if format_name != "pt2":
        graph = onnx.load(str(model_file)).graph
        values = (graph.input[0], graph.output[0])
        assert [value.type.tensor_type.shape.dim[0].dim_value for value in values] == [3, 3]
    # The file alone knows its batch, too.
    alone = tmp_path / f"alone{model_file.suffix}"
    alone.write_bytes(model_file.read_bytes())
    inputs = images(7)
    expected = load_run(run, ["device=cpu", "precision=fp32"]).compute_outputs(inputs)
    outputs = load_model(alone, trust=True).compute_outputs(inputs)
    assert torch.equal(outputs.argmax(1), expected.argmax(1))
    if format_name != "onnx_int8":
        assert torch.allclose(outputs, expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["onnx", "pt2"])
def test_a_model_in_half_precision_has_half_the_weights(
    format_name: str, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    whole, half = (export(run, tmp_path / name, f"--format={format_name}", *words) for name, words in _HALF.items())
    details = half["details"]
    assert isinstance(details, dict)
    assert details["half"] is True
    assert details["parity"]["largest_error"] > whole["details"]["parity"]["largest_error"]  # type: ignore[index]
    sizes = [next((tmp_path / name).glob("model.*")).stat().st_size for name in _HALF]
    assert sizes[1] < 0.7 * sizes[0]
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "half"), "--trust", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["onnx", "pt2"])
def test_estimates_in_half_precision_keep_the_units_of_the_target(format_name: str, tmp_path: Path) -> None:
    table, source = tmp_path / "table.csv", tmp_path / "run"
    # Prices beyond the largest number of float16, 65504.
    rows = (f"{row % 50},{300_000 + 1000 * (row % 50) + 200 * (row * 7919 % 97)}\n" for row in range(200))
    table.write_text("size,price\n" + "".join(rows))
    words = ["data=table", f"data.file={table}", "data.target=[price]", "task=regression", "model=mlp", "optim.lr=1e-2"]
    assert main([*words, "train.duration=20ep", "log.report=false", f"run_dir={source}", "--quiet"]) == 0
    export(source, tmp_path / "half", f"--format={format_name}", "--half")
    inputs = torch.linspace(-1.5, 1.5, 7)[:, None]
    expected = load_run(source, ["device=cpu", "precision=fp32"]).compute_outputs(inputs)
    outputs = load_model(tmp_path / "half", trust=True).compute_outputs(inputs)
    torch.testing.assert_close(outputs, expected, atol=2e-2, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["onnx", "pt2"])
def test_a_language_model_in_half_precision_reads_tokens(format_name: str, tmp_path: Path) -> None:
    source = tmp_path / "run"
    assert main([*RUN, f"data.path={write_texts(tmp_path / 'texts')}", f"run_dir={source}", "--quiet"]) == 0
    export(source, tmp_path / "half", f"--format={format_name}", "--half")
    tokens = torch.arange(32).reshape(2, 16) + 97
    expected = load_run(source, ["device=cpu", "precision=fp32"]).compute_outputs(tokens)
    outputs = load_model(tmp_path / "half", trust=True).compute_outputs(tokens)
    torch.testing.assert_close(outputs, expected, atol=2e-2, rtol=0)


@pytest.mark.slow
def test_a_bfloat16_program_that_loses_too_much_says_what_helps(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Parity] = []

    def measure(*arguments: Any) -> Parity:
        measured.append(replace(measure_parity(*arguments), drop=0.02))
        return measured[-1]

    monkeypatch.setattr(export_run, "measure_parity", measure)
    words = ["export", str(run), f"--path={tmp_path / 'out'}", "--format=pt2", "--runtime=eager_bf16"]
    assert main(words) == CheckpointError.exit_code
    message = capsys.readouterr().err
    assert "--runtime eager_bf16 loses 2.00 % of accuracy" in message
    assert "leave --runtime eager_bf16 out" in message
    assert "max_metric_drop" not in message
    assert len(measured) == 1


_HALF = {"whole": (), "half": ("--half",)}


@pytest.mark.slow
def test_the_operators_are_of_the_version_that_is_asked_for(run: Path, tmp_path: Path, capsys: Capture) -> None:
    manifest = export(run, tmp_path / "out", "--format=onnx", "--opset=20")
    assert manifest["details"]["opset"] == 20  # type: ignore[index]
    versions = {entry.domain: entry.version for entry in onnx.load(str(tmp_path / "out" / "model.onnx")).opset_import}
    assert versions[""] == 20
    capsys.readouterr()
    assert main(["export", str(run), f"--path={tmp_path / 'other'}", "--format=onnx", "--opset=99"]) == 2
    assert f"use --opset {onnx.defs.onnx_opset_version()}" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--format=pt2", "--opset=18"), "use --format onnx or onnx_int8"),
        (("--format=onnx_int8", "--half"), "use --format onnx or pt2"),
        (("--batch=8",), "use --format onnx or onnx_int8 or pt2 or aoti"),
        (("--format=onnx", "--batch=0"), "--batch 0: 0 is not a whole number at least 1"),
        (("--format=onnx", "--opset=8"), "--opset 8: 8 is not a whole number at least 9"),
        (("--format=pt2", "--half", "--runtime=compiled_bf16"), "name two precisions"),
    ],
)
def test_a_format_that_does_not_support_an_option_names_one_that_does(
    words: tuple[str, ...], reason: str, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["export", str(run), f"--path={tmp_path}/out", *words]) == 2
    assert reason in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
