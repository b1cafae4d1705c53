"""`dnntrain prove` from the command line: verdicts on real runs, kills, and refusals."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from warm_process import WarmProcess, run_warm

#: Six epochs on a part of the digits; a learning rate of 1e-6 learns nothing.
SHORT = ("train.duration=2ep", "train.max_examples=320", "log.report=false")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "needs --a and --b"),
        (("--a", "optim=sgd"), "needs --a and --b"),
        (("--a", "", "--b", ""), "the same configuration"),
        (("--a", "", "--b", "optim=sgd", "--runs-a", "x"), "needs --a and --b"),
        (("--a", "", "--b", "optim=sgdd"), "sgd"),
        (("--a", "", "--b", "seed=1 run_dir=x"), "run_dir"),
        (("--a", "", "--b", "optim=sgd", "--metric", "acuracy"), "accuracy"),
        (("--a", "", "--b", "optim=sgd", "--alpha", "0.7"), "below 0.5"),
        (("--a", "", "--b", "optim=sgd", "--max-pairs", "1"), "at least 2"),
        (("--a", "", "--b", "optim=sgd", "--max-pairs", "5"), "at least 6 pairs"),
        (("--a", "", "--b", "optim=sgd", "launch=slurm"), "do not support launch=slurm"),
        (("--a", "", "--b", "optim=sgd", "folds=5"), "do not support folds"),
        (("sweep",), "prove sweep DIR"),
        (("sweep", "nowhere"), "not the folder of a sweep"),
        (("--runs-a", "nowhere", "--runs-b", "nowhere2"), "does not exist"),
        (("optim=sgd", "--runs-a", "a", "--runs-b", "b"), "no effect"),
    ],
)
def test_lines_that_compare_nothing_are_refused(dnntrain, words, text):
    process = dnntrain("prove", *words)
    assert process.returncode == 2
    assert text in process.stderr
    assert not process.stdout


def _prove(folder: Path, *words: str) -> tuple[str, ...]:
    return ("prove", *SHORT, f"run_dir={folder}", "--json", "-q", *words)


@pytest.mark.slow
def test_a_clear_gain_is_proven_and_its_lines_reproduce_it(dnntrain, tmp_path):
    folder = tmp_path / "pairs"
    process = dnntrain(*_prove(folder, "--a", "optim.lr=1e-6", "--b", "", "--exit-code"))
    result = json.loads(process.stdout)
    assert process.returncode == 0, process.stderr
    assert result["verdict"] == "better"
    assert result["pairs"] == len(result["per_pair"]) == 6
    assert result["e_value"] >= 20
    assert result["interval"][0] > 0
    assert 0 < result["test_set_error"] < 0.1
    row = result["per_pair"][1]
    assert row["seeds"] == [1, 1]
    assert row["difference"] == pytest.approx(row["b"] - row["a"])
    # The line of a pair trains the same run again.
    line = row["lines"][1].removeprefix("dnntrain ").split()
    assert dnntrain(*line, f"run_dir={tmp_path / 'again'}").returncode == 0
    again = json.loads((tmp_path / "again" / "result.json").read_text())
    first = json.loads((Path(row["runs"][1]) / "result.json").read_text())
    assert again["digest"] == first["digest"]
    assert "better" in (folder / "report.html").read_text()
    # The same runs as two finished sets give the same verdict, here seen from A.
    runs = [[str(row["runs"][side]) for row in result["per_pair"]] for side in (0, 1)]
    sets = dnntrain("prove", "--runs-a", *runs[1], "--runs-b", *runs[0], "--json", "--exit-code")
    assert sets.returncode == 10
    assert json.loads(sets.stdout)["e_value"] == pytest.approx(result["e_value"])
    assert json.loads(sets.stdout)["mean_difference"] == pytest.approx(-result["mean_difference"])


@pytest.mark.slow
def test_a_killed_search_goes_on_to_the_same_verdict(tmp_path):
    words = ("--a", "", "--b", "average=[ema]", "--alpha", "0.4", "--max-pairs", "3")
    whole = run_warm(_prove(tmp_path / "whole", *words))
    broken = tmp_path / "broken"
    for target in ("01-b", "02-a"):
        process = WarmProcess(_prove(broken, *words))
        deadline = time.monotonic() + 300
        while not (broken / target / "metrics.jsonl").exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.wait()
    last = run_warm(_prove(broken, *words))

    def keep(text: str) -> dict:
        result = json.loads(text)
        for row in result["per_pair"]:
            del row["runs"]
        return result

    assert keep(last.stdout) == keep(whole.stdout)


@pytest.mark.slow
def test_the_variants_of_a_sweep_are_compared_with_the_first(dnntrain, tmp_path):
    folder = tmp_path / "sweep"
    swept = dnntrain("-m", *SHORT, "optim.lr=0.004,1e-6", "seed=range(0,6)", f"run_dir={folder}", timeout_s=600)
    assert swept.returncode == 0, swept.stderr
    process = dnntrain("prove", "sweep", str(folder), "--json")
    [result] = json.loads(process.stdout)
    assert (result["verdict"], result["a"], result["b"]) == ("worse", "optim.lr=0.004", "optim.lr=1e-06")
    assert "worse" in (folder / "prove.html").read_text()
    shutil.rmtree(next(folder.glob("*lr=1e-06,seed=3")))
    refused = dnntrain("prove", "sweep", str(folder))
    assert refused.returncode == 2
    assert f"{folder} has 6 runs of optim.lr=0.004 and 5 of optim.lr=1e-06" in refused.stderr
    assert "run every variant with the same seeds" in refused.stderr
