"""`explain --against`: two models are compared on the same examples, in the same units."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dnntrain.cli.main import main
from dnntrain.inference.load import load_model

LINE = ("model=mlp", "train.duration=5ep", "train.batch_size=16", "log.report=false", "seed=1", "--quiet")


def write_table(file: Path, columns: str = "x1,x2,kind,y", deviation: float = 3) -> Path:
    """A table whose numbers are far from 0, with 5 kinds."""
    generator = np.random.default_rng(0)
    rows = [
        f"{x1:.3f},{x2:.3f},k{number % 5},{100 + 10 * x1 + x2 + number % 5:.4f}"
        for number, (x1, x2) in enumerate(generator.normal(5, deviation, (200, 2)))
    ]
    file.write_text("\n".join([columns, *rows]) + "\n")
    return file


def compare(capsys: pytest.CaptureFixture[str], run: Path, other: Path, page: Path) -> dict[str, dict[str, float]]:
    capsys.readouterr()
    assert main(["explain", str(run), "--against", str(other), "--path", str(page), "--json"]) == 0
    figures: dict[str, dict[str, float]] = json.loads(capsys.readouterr().out)["comparison"]["figures"]
    return figures


@pytest.mark.slow
def test_models_of_other_columns_and_other_units_are_compared_in_those_of_the_explained_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("data=table", "data.target=[y]", "task=regression")
    table, wider = write_table(tmp_path / "a.csv"), write_table(tmp_path / "b.csv", deviation=5)
    run, other = tmp_path / "run", tmp_path / "other"
    assert main([*LINE, *words, f"data.file={table}", f"run_dir={run}"]) == 0
    assert main([*LINE, *words, f"data.file={wider}", "data.ignore=[x2]", f"run_dir={other}"]) == 0
    figures = compare(capsys, run, other, tmp_path / "page.html")["loss"]
    std = load_model(run).spec.targets.std[0]
    for path, loss in ((run, figures["value"]), (other, figures["other"])):
        assert main(["eval", str(path), f"data.file={table}", "--split", "test", "--json"]) == 0
        rmse = json.loads(capsys.readouterr().out)["rmse"]
        assert (rmse / std) ** 2 == pytest.approx(loss, rel=1e-4)


@pytest.mark.slow
def test_a_model_of_columns_that_the_data_do_not_have_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for name, columns in (("run", "x1,x2,kind,y"), ("other", "x1,x3,kind,y")):
        table = write_table(tmp_path / f"{name}.csv", columns)
        paths.append(tmp_path / name)
        words = (f"data.file={table}", "data.target=[y]", "task=regression", "data=table", f"run_dir={paths[-1]}")
        assert main([*LINE, *words]) == 0
    assert main(["explain", str(paths[0]), "--against", str(paths[1])]) == 3
    assert "x3" in capsys.readouterr().err
