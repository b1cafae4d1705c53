"""The 8-bit export of a regression: its error in the units of the target is within the stated bound of its source's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dnntrain
from dnntrain.cli.main import main


@pytest.mark.slow
def test_the_rmse_grows_by_at_most_one_percent(tmp_path: Path) -> None:
    run, export = tmp_path / "run", tmp_path / "int8"
    words = ("task=regression", "data=diabetes", "model=mlp", "model.hidden=[64,64]", "optim.lr=3e-3")
    result = dnntrain.train(
        *words, "train.duration=20ep", "train.cpu_threads=1", "log.report=false", f"run_dir={run}", display="quiet"
    )
    assert main(["export", str(run), "--format", "onnx_int8", "--path", str(export)]) == 0
    manifest = json.loads((export / "manifest.json").read_text())
    assert (manifest["target_mean"], manifest["target_std"]) != ([0.0], [1.0])
    source, integers = dnntrain.evaluate(run), dnntrain.evaluate(export)
    assert source["rmse"] == pytest.approx(result["test_rmse"], rel=1e-5)
    assert 30 < source["rmse"] < 80  # in the units of the target, whose deviation is 77
    assert integers["rmse"] <= 1.01 * source["rmse"]
    assert integers["rmse"] != source["rmse"]
