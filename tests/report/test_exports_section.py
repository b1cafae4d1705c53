"""The page of a run shows its exports: size, difference from the run, number formats, latency."""

from __future__ import annotations

from pathlib import Path

from dnntrain.report.exports import render_exports
from dnntrain.report.load_run import read_run
from dnntrain.report.page import render_run
from dnntrain.utils.json_files import write_json
from dnntrain.utils.sealed_json import write_sealed_json

MANIFEST = {
    "format": "onnx_int8",
    "files": {"model_int8.onnx": "0", "../secret": "0"},
    "details": {
        "parity": {"metric": "accuracy", "value": 0.91, "source_value": 0.92, "agreement": 0.985},
        "census": {"shares": {"int8": 0.975, "fp32": 0.025}},
        "auto": {
            "choices": {"1": "onnx_int8"},
            "measured": [{"name": "onnx_int8", "batches": {"1": {"latency_ms": {"p50": 0.25}}}}],
        },
    },
}


def make_run(folder: Path, manifest: object, name: str = "int8") -> Path:
    export = folder / "exports" / name
    export.mkdir(parents=True)
    metrics = [{"name": "accuracy", "higher_is_better": True, "unit": "%"}]
    write_sealed_json(folder / "plan.json", {"name": "a run", "metrics": metrics})
    (folder / "model.safetensors").write_bytes(bytes(4000))
    (folder / "exports" / "secret").write_bytes(bytes(10**6))
    (export / "model_int8.onnx").write_bytes(bytes(1024))
    write_json(export / "manifest.json", manifest)
    return folder


def test_each_export_has_a_row_with_its_figures(tmp_path: Path) -> None:
    page = render_exports(read_run(make_run(tmp_path, MANIFEST)))
    for text in (
        "<bdi>int8</bdi>",
        "<bdi>onnx_int8</bdi>",
        "1.0 KiB",  # the file outside of the folder does not count
        "26 %",
        "91.00%",
        "92.00%",
        "98.50%",
        "97.5 % int8, 2.5 % fp32",
        "0.25 ms at batch 1 (onnx_int8)",
    ):
        assert text in page, text


def test_the_page_of_a_run_holds_them(tmp_path: Path) -> None:
    assert b"<h2>Exports</h2>" in render_run(read_run(make_run(tmp_path, MANIFEST)))


def test_a_run_without_exports_has_no_such_section(tmp_path: Path) -> None:
    write_sealed_json(tmp_path / "plan.json", {"name": "a run"})
    assert render_exports(read_run(tmp_path)) == ""


def test_a_manifest_of_a_stranger_cannot_break_the_page(tmp_path: Path) -> None:
    manifest = {
        "format": "<script>",
        "files": ["x"],
        "details": {"parity": {"a": 3}, "census": 5, "auto": {"choices": 3}},
    }
    page = render_exports(read_run(make_run(tmp_path, manifest, name="<b>")))
    assert "<script>" not in page
    assert "<b>" not in page
    assert page.count("–") >= 5
