"""Exports of networks whose outputs are masks or tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dnntrain.cli.main import main

SCENES = ("task=segmentation", "data=scenes", "data.pictures=digits", "data.train_size=60", "data.test_size=20")
TEXT = ("task=language_model", "data=text", "data.context=16", "data.tokenizer=char")


def write_text(folder: Path) -> Path:
    (folder / "books").mkdir()
    for number in range(30):
        (folder / "books" / f"{number}.txt").write_text("".join(f"line {number * i % 17} of {i}\n" for i in range(12)))
    return folder / "books"


@pytest.mark.slow
@pytest.mark.parametrize("export_format", ["onnx", "pt2", "openvino"])
@pytest.mark.parametrize("model", ["unet", "gpt"])
def test_an_export_computes_the_outputs_of_its_run(model: str, export_format: str, tmp_path: Path) -> None:
    if model == "unet":
        words = [*SCENES, "data.image_size=32", "model=unet", "model.width=4", "model.depth=2"]
    else:
        words = [*TEXT, f"data.path={write_text(tmp_path)}", "model=gpt", "model.embed_dim=16", "model.depth=1"]
    run = tmp_path / "run"
    assert main([*words, "train.duration=2step", "train.batch_size=8", "log.report=false", f"run_dir={run}", "-q"]) == 0
    assert main(["export", str(run), "--format", export_format]) == 0
    manifest = json.loads((run / "exports" / export_format / "manifest.json").read_text())
    assert manifest["details"]["parity"]["largest_error"] < 1e-4
