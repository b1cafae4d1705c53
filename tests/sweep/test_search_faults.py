"""A search with trials that cannot be planned, that fail, that are several runs, or whose files are lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dnntrain.cli.main import main
from dnntrain.config.registry import load_registry
from dnntrain.errors import ConfigError
from dnntrain.protocols import MetricInfo
from dnntrain.sweep.prepare_search import SearchOptions, prepare_search
from dnntrain.sweep.search_results import read_results
from dnntrain.sweep.search_space import read_search_space
from dnntrain.utils.json_files import read_json, write_json
from dnntrain.utils.sealed_json import write_sealed_json

Capture = pytest.CaptureFixture[str]

SHORT = ("train.duration=1ep", "train.max_examples=160", "eval.run_test=false", "log.report=false", "model=mlp")
ACCURACY, LOSS = MetricInfo("accuracy", higher_is_better=True, unit="%"), MetricInfo("loss")


def run(capsys: Capture, *words: str, code: int = 0) -> dict[str, Any]:
    """Run a search in ./found and return its result."""
    assert main(["-m", *words, "run_dir=found", "--json", "-q"]) == code
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


@pytest.mark.slow
def test_a_proposal_without_a_plan_is_refused_and_the_others_are_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Only the third of the four has more examples in a batch than there are."""
    monkeypatch.chdir(tmp_path)
    words = ("train.max_examples=160,40", "train.batch_size=120,20", "--metrics", "loss", *SHORT[:1], *SHORT[2:])
    for _ in range(2):  # the second one continues it
        trials = run(capsys, *words)["trials"]
        assert [trial["status"] for trial in trials] == ["done", "done", "refused", "done"]


@pytest.mark.slow
def test_a_trial_that_failed_stays_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("optim=sgd", "optim.lr=0.01,1e30", "optim.nesterov=false", "--metrics", "loss", *SHORT, "model=mlp")[:-1]
    first = run(capsys, *words)["trials"]
    assert [trial["status"] for trial in first] == ["done", "diverged"]
    assert run(capsys, *words)["trials"] == first


@pytest.mark.slow
def test_the_list_of_trials_and_the_winner_do_not_need_lost_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["-m", "optim.lr=0.001,0.01", *SHORT, "--metrics", "loss", "run_dir=found"]
    assert main(line) == 0
    told = capsys.readouterr().err
    assert "best loss of 2 trials" in told
    listed = read_json(Path("found/sweep.json"))
    assert len(listed["trials"]) == 2
    # A kill between the folder of the last trial and the list.
    write_json(Path("found/sweep.json"), {**listed, "trials": listed["trials"][:1]})
    for trial in Path("found").glob("?-*/metrics.jsonl"):
        trial.unlink()
    assert main(line) == 0
    assert capsys.readouterr().err.splitlines()[-4:] == told.splitlines()[-4:]
    assert read_json(Path("found/sweep.json")) == listed


@pytest.mark.slow
def test_a_picture_in_the_folder_does_not_end_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("optim.lr=0.001,0.01", *SHORT, "--metrics", "loss")
    first = run(capsys, *words)
    Path("found/plot.png").write_bytes(b"\x89PNG")
    assert run(capsys, *words)["trials"] == first["trials"]
    Path("data").mkdir()
    shutil.copy("found/plot.png", "data/plot.png")
    assert main(["-m", *words, "run_dir=data", "-q"]) == 2
    assert "run_dir=data holds data: plot.png" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "options", "said"),
    [
        (["train.duration=5s"], {"stop_early": "asha"}, "compares trials after the same steps"),
        (["train.duration=1ep"], {"stop_early": "asha", "metrics": ("train_s",)}, "train_s is known at the end"),
        (["folds=2"], {"stop_early": "median"}, "does not support folds"),
    ],
)
def test_an_early_stop_that_could_stop_nothing_is_refused(words: list[str], options: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        prepare_search(["optim.lr=0.001,0.01", *words], SearchOptions(**options), quiet=True)


@pytest.mark.parametrize(
    ("word", "said"), [("seed=range(0,5000)", "more than 1000 values"), ("seed=range(0,9,step=0)", "seed=range")]
)
def test_values_without_end_are_refused(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        read_search_space([word], load_registry().list_names)


@pytest.mark.slow
def test_another_bound_or_sampler_has_a_folder_of_its_own() -> None:
    names = {
        prepare_search([word], SearchOptions(sampler), quiet=True).folder.name
        for word, sampler in (
            ("optim.lr=interval(0.001,0.1)", "random"),
            ("optim.lr=interval(0.001,0.2)", "random"),
            ("optim.lr=interval(0.001,0.1)", "tpe"),
        )
    }
    assert len(names) == 3


def write_run(folder: Path, losses: list[Any], accuracy: float) -> None:
    folder.mkdir(parents=True)
    write_sealed_json(folder / "result.json", {"metric": "accuracy", "best": accuracy, "best_step": 10, "train_s": 2.0})
    rows = [{"step": 10 * n, "split": "val", "loss": loss} for n, loss in enumerate(losses, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_metric_is_the_best_validation_not_that_of_the_best_step_of_another(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [0.5, 0.25, 0.75, "nan"], accuracy=0.75)
    assert read_results(tmp_path / "run", (LOSS, ACCURACY, MetricInfo("train_s"))) == [0.25, 0.75, 2.0]


def test_the_result_of_folds_is_their_mean(tmp_path: Path) -> None:
    for fold, (losses, accuracy) in enumerate((([0.5], 0.5), ([0.75, 0.25], 1.0))):
        write_run(tmp_path / f"fold-{fold}", losses, accuracy)
    write_sealed_json(tmp_path / "folds.json", {"folds": 10**12})
    assert read_results(tmp_path, (LOSS, ACCURACY)) == [0.375, 0.75]
