"""The comparison of runs: one metric for all of them, and the best runs of a large sweep."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dnntrain.cli.main import main
from dnntrain.errors import ConfigError
from dnntrain.report import write_report
from dnntrain.report.best_runs import select_best_runs

MakeRun = Callable[..., Path]


def change_result(run: Path, **values: object) -> None:
    file = run / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_the_best_values_of_all_runs_are_of_the_same_metric(make_run: MakeRun) -> None:
    runs = [make_run("a", name="first"), make_run("b", name="second", seed=1)]
    accuracy = json.loads((runs[1] / "result.json").read_text())["best"]
    change_result(runs[1], metric="loss", best=0.0123)
    figures = write_report(runs).read_text().split("What differs")[0].split('<section class="charts">')[0]
    assert "best val accuracy" in figures
    assert f"{100 * accuracy:.2f}" in figures
    assert "0.0123" not in figures
    assert "1.23" not in figures


def test_a_large_sweep_shows_its_best_runs(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(f"sweep/{number}", name=f"trial-{number}", steps=24) for number in range(43)]
    for number, run in enumerate(runs):
        change_result(run, metric="accuracy", best=0.5 + (number * 10 % 43) / 100)
    sweep = runs[0].parent
    (sweep / "sweep.json").write_text(json.dumps({"schema": 1, "trials": [{"trial": run.name} for run in runs]}))
    shown, note = select_best_runs(runs)
    left_out = [number for number, run in enumerate(runs) if run not in shown]
    assert sorted(number * 10 % 43 for number in left_out) == [0, 1, 2]
    assert shown == sorted(shown, key=runs.index)
    assert note == "The 40 of 43 runs with the best validation accuracy are shown."
    assert main(["report", str(sweep)]) == 0
    page = Path(capsys.readouterr().out.strip()).read_text()
    assert note in page
    assert f"trial-{left_out[0]}<" not in page
    with pytest.raises(ConfigError, match="43 run directories were given"):
        write_report(runs)


def test_a_loss_is_better_if_it_is_lower(make_run: MakeRun) -> None:
    runs = [make_run(f"{number}", steps=24) for number in range(41)]
    for number, run in enumerate(runs):
        change_result(run, metric="loss", best=float(number))
    assert select_best_runs(runs)[0] == runs[:40]
