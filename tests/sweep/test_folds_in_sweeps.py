"""A sweep whose trials are cross-validations."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from dnntrain.cli.main import main
from dnntrain.utils.json_files import read_json

WORDS = ("-m", "folds=2", "optim.lr=0.001,0.01", "model=mlp", "train.duration=1ep", "train.max_examples=160")


@pytest.mark.slow
def test_a_trial_is_done_with_the_mean_of_its_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = [*WORDS, "log.report=false", "run_dir=a"]
    assert main(line) == 0
    with Path("a/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["done", "done"]
    for row in rows:
        folds = [read_json(Path(row["run_dir"]) / f"fold-{fold}" / "result.json") for fold in (0, 1)]
        assert float(row["value"]) == pytest.approx(sum(fold["value"] for fold in folds) / 2)
        assert float(row["best"]) == pytest.approx(sum(fold["best"] for fold in folds) / 2)
        assert int(row["steps"]) == sum(fold["steps"] for fold in folds)
    times = [path.stat().st_mtime_ns for path in sorted(Path("a").glob("*/fold-*/result.json"))]
    assert len(times) == 4
    assert main(line) == 0
    assert [path.stat().st_mtime_ns for path in sorted(Path("a").glob("*/fold-*/result.json"))] == times
    capsys.readouterr()
    assert main(["report", "a"]) == 0
    page = Path(capsys.readouterr().out.strip()).read_text()
    assert all(f"fold-{fold}" in page for fold in (0, 1))
