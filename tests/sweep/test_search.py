"""`dnntrain -m --search …`: proposals, early stops, the log of a search, and its continuation."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dnntrain.cli.main import main
from dnntrain.config.registry import load_registry
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.protocols import MetricInfo
from dnntrain.sweep import run_search
from dnntrain.sweep.early_stop import Asha, Median
from dnntrain.sweep.prepare_search import SearchOptions, prepare_search
from dnntrain.sweep.run_search import SearchState, _SearchSource
from dnntrain.sweep.samplers import GridSampler, make_sampler
from dnntrain.sweep.search_log import JOURNAL_FILE, LOG_FILE, SearchLog
from dnntrain.sweep.search_results import choose_winner
from dnntrain.sweep.search_space import SearchSpace, read_search_space
from dnntrain.sweep.sweep_directory import TrialStatus
from tests.support.short_runs import environment

Capture = pytest.CaptureFixture[str]

SHORT = (
    "train.duration=2ep",
    "train.max_examples=160",
    "eval.run_test=false",
    "log.report=false",
    "train.cpu_threads=1",
)
RATE = "optim.lr=tag(log,interval(1e-4,1e-1))"


def read_space(*words: str) -> SearchSpace:
    return read_search_space(words, load_registry().list_names)


def open_log(folder: Path, space: SearchSpace) -> SearchLog:
    return SearchLog.open(folder, {"space": [dimension.as_json() for dimension in space.dimensions]})


def search(sampler: Any, log: SearchLog, trials: int) -> None:
    """Search for the greatest value of a function of the rate and the schedule."""
    for _ in range(trials):
        values = log.ask(sampler)
        assert values is not None
        number = len(log.list_values()) - 1
        if number % 5 == 3:
            log.stop(sampler, number, 10, 0.1)
        else:
            log.tell(sampler, number, None if number % 5 == 4 else [-abs(float(values["optim.lr"]) - 0.01)])


def test_words_become_dimensions() -> None:
    space = read_space("model=mlp", RATE, "+average=[ema],[swa]", "model.depth=int(interval(2,8))", "seed=range(0,3)")
    rate, average, depth, seed = space.dimensions
    assert (rate.key, rate.low, rate.high, rate.is_log, rate.is_whole) == ("optim.lr", 1e-4, 1e-1, True, False)
    assert (average.key, average.choices) == ("average", ("[ema]", "[swa]"))
    assert (depth.low, depth.high, depth.is_whole, depth.is_log) == (2, 8, True, False)
    assert seed.choices == ("0", "1", "2")
    combination = space.make_combination(
        {"optim.lr": 0.00123456789, "average": "[swa]", "model.depth": 3.0, "seed": "2"}
    )
    assert combination.words == ("model=mlp", "optim.lr=0.0012346", "+average=[swa]", "model.depth=3", "seed=2")
    assert combination.swept_words == combination.words[1:]


def test_the_probes_have_both_ends_and_every_choice() -> None:
    probes = read_space(RATE, "sched=cosine,step,constant").list_probes()
    assert [probe.words for probe in probes] == [
        ("optim.lr=0.0001", "sched=cosine"),
        ("optim.lr=0.1", "sched=step"),
        ("optim.lr=0.1", "sched=constant"),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optim.lr=0.1"], "needs a key with several values"),
        (["optim.lr=interval(1,0)"], "a lower and a greater bound"),
        (["optim.lr=tag(log,interval(0,1))"], "must begin above 0"),
        (["optim.lr=tag(lin,interval(0,1))"], "must be log"),
        (["run_dir=a,b", RATE], "run_dir must have one value"),
        (["optim.lr=1,2", "optim.lr=3,4"], "optim.lr has values twice"),
        (["model=glob(nothing*)", RATE], "no value matches"),
    ],
)
def test_what_cannot_be_searched_is_rejected(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_space(*words)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metrics": ("loss", "accuracy")}, "need --search nsga2"),
        ({"search": "nsga2", "metrics": ("loss", "accuracy"), "stop_early": "asha"}, "compares one metric"),
        ({"search": "grid", "trials": 3, "stop_early": "asha"}, "trains every combination"),
    ],
)
def test_options_that_exclude_each_other_are_rejected(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SearchOptions(**options)


def test_cmaes_needs_an_interval_and_one_metric(tmp_path: Path) -> None:
    for space, maximize in ((read_space("sched=cosine,step"), [True]), (read_space(RATE), [True, False])):
        with pytest.raises(ConfigError, match="cmaes"):
            make_sampler("cmaes", space, 0, maximize, tmp_path / JOURNAL_FILE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "tpe", "cmaes", "nsga2"])
def test_a_search_continued_from_its_log_proposes_what_the_undisturbed_one_does(name: Any, tmp_path: Path) -> None:
    space = read_space(RATE, "model.depth=int(interval(2,8))", "sched=cosine,step")
    logs = []
    for folder, cuts in ((tmp_path / "whole", [23]), (tmp_path / "cut", [4, 9, 10])):
        folder.mkdir()
        for trials in cuts:
            log = open_log(folder, space)
            sampler = make_sampler(name, space, 5, [True], folder / JOURNAL_FILE)
            log.replay(sampler)
            search(sampler, log, trials)
        logs.append(log)
    assert logs[0].events == logs[1].events
    assert len(logs[0].list_values()) == 23


def test_the_sampler_finds_the_best_rate(tmp_path: Path) -> None:
    space = read_space(RATE, "sched=cosine,step")
    log, sampler = open_log(tmp_path, space), make_sampler("tpe", space, 0, [True], tmp_path / JOURNAL_FILE)
    search(sampler, log, 40)
    best = max(event["results"][0] for event in log.events if event.get("results"))
    assert best > -0.002
    importances = sampler.compute_importances()
    assert importances["optim.lr"] > importances["sched"]


def test_optuna_opens_the_journal(tmp_path: Path) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    space = read_space(RATE)
    log, sampler = open_log(tmp_path, space), make_sampler("random", space, 0, [True], tmp_path / JOURNAL_FILE)
    search(sampler, log, 6)
    (study,) = optuna.get_all_study_names(JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL_FILE))))
    loaded = optuna.load_study(
        study_name=study, storage=JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL_FILE)))
    )
    states = [trial.state.name for trial in loaded.trials]
    assert states == ["COMPLETE", "COMPLETE", "COMPLETE", "PRUNED", "FAIL", "COMPLETE"]


def test_the_log_of_another_search_and_a_damaged_one_are_rejected(tmp_path: Path) -> None:
    space = read_space(RATE)
    log, sampler = open_log(tmp_path, space), make_sampler("random", space, 0, [True], tmp_path / JOURNAL_FILE)
    log.ask(sampler)
    with pytest.raises(ConfigError, match="holds another search"):
        open_log(tmp_path, read_space("optim.lr=interval(0,1)"))
    text = (tmp_path / LOG_FILE).read_text()
    (tmp_path / LOG_FILE).write_text(text.replace('"ask": 0', '"ask": 7'))
    with pytest.raises(CheckpointError, match="damaged or was altered"):
        open_log(tmp_path, space)


def test_a_sampler_that_proposes_something_else_is_rejected(tmp_path: Path) -> None:
    space = read_space(RATE)
    log = open_log(tmp_path, space)
    log.ask(make_sampler("random", space, 0, [True], tmp_path / JOURNAL_FILE))
    with pytest.raises(ConfigError, match="this version of optuna"):
        log.replay(make_sampler("random", space, 1, [True], tmp_path / JOURNAL_FILE))


def test_the_grid_has_every_combination_once() -> None:
    sampler = GridSampler(read_space("optim.lr=1,2", "sched=cosine,step,constant"))
    combinations = list(iter(sampler.ask, None))
    assert len(combinations) == 6
    assert combinations[:2] == [{"optim.lr": "1", "sched": "cosine"}, {"optim.lr": "1", "sched": "step"}]
    with pytest.raises(ConfigError, match="infinitely many"):
        GridSampler(read_space(RATE))


def test_asha_keeps_the_best_third_at_each_rung() -> None:
    rule = Asha()
    assert rule.list_points(270) == (10, 30, 90)
    assert rule.list_points(2) == (1,)
    histories = {number: [(10, float(number)), (30, float(number))] for number in range(6)}
    kept = [number for number in histories if not rule.should_stop(number, 10, histories)]
    assert kept == [4, 5]
    assert not rule.should_stop(0, 10, {0: [(10, 0.0)], 1: [(10, 1.0)]})  # too few to compare
    assert not rule.should_stop(0, 90, histories)  # nobody has come as far


def test_the_median_rule_compares_the_best_value_with_the_means_of_others() -> None:
    rule = Median()
    histories = {number: [(10, 0.5), (20, 0.5 + number / 10)] for number in range(5)}
    histories[9] = [(10, 0.1), (20, 0.2)]
    assert rule.should_stop(9, 20, histories)
    assert not rule.should_stop(4, 20, histories)
    assert not rule.should_stop(9, 20, {number: histories[number] for number in (0, 1, 9)})


def test_the_median_rule_judges_no_trial_in_its_first_tenth(tmp_path: Path) -> None:
    source, _ = make_source(tmp_path, "median")
    history = [(5, 0.1), (9, 0.1), (10, 0.1)]
    source._state.histories = {number: [(5, 0.9), (10, 0.9)] for number in range(1, 6)} | {0: history}
    assert source._find_lost_point(0, history[:2]) is None
    assert source._find_lost_point(0, history) == 10


def make_source(folder: Path, rule: str | None = None) -> tuple[_SearchSource, list[str]]:
    """Return the source of a search whose first trial has ended, and the list of what it says."""
    space, said = read_space(RATE), []
    search = SimpleNamespace(options=SimpleNamespace(stop_early=rule), metrics=(MetricInfo("accuracy", True),))
    log, sampler = open_log(folder, space), make_sampler("random", space, 0, [True], folder / JOURNAL_FILE)
    log.ask(sampler)
    state = SearchState(search, log, sampler, [SimpleNamespace(folder=folder / "1", total_steps=100)])
    table = SimpleNamespace(statuses=[TrialStatus("done")], say=lambda text, important=False: said.append(text))
    return _SearchSource(state, table), said


def test_a_trial_without_the_metric_does_not_end_the_search(tmp_path: Path) -> None:
    source, said = make_source(tmp_path)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "result.json").write_text('{"status": "done"}')
    (tmp_path / "1" / "metrics.jsonl").write_text("")
    source.on_end(0)
    assert "trial 1 counts as failed" in said[0]
    assert source._state.log.events[-1] == {"tell": 0, "results": None}


@pytest.mark.slow
def test_a_search_without_a_validation_split_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs the validation split"):
        prepare_search([RATE, "data.val_fraction=0"], SearchOptions("random"), quiet=True)


def test_the_pareto_front_has_no_dominated_trial(tmp_path: Path) -> None:
    metrics = (MetricInfo("accuracy", higher_is_better=True), MetricInfo("parameters"))
    log = SearchLog(tmp_path, {})
    results = [(0.9, 100.0), (0.8, 50.0), (0.8, 60.0), (0.95, 300.0), (0.7, 50.0)]
    log.events = [{"tell": number, "results": list(values)} for number, values in enumerate(results)]
    log.events.append({"tell": 9, "results": None})
    assert choose_winner(log, metrics) == [0, 1, 3]
    log.events = [{"tell": number, "results": [values[0]]} for number, values in enumerate(results)]
    assert choose_winner(log, metrics[:1]) == [3]


@pytest.mark.slow
def test_a_search_trains_names_its_winner_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["-m", RATE, "sched=cosine,constant", *SHORT, "run_dir=found", "--search", "tpe", "--json", "-q"]
    assert main([*line, "--trials", "2"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert [trial["status"] for trial in first["trials"]] == ["done", "done"]
    assert main([*line, "--trials", "3"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["trials"][:2] == first["trials"]
    (winner,) = second["winners"]
    best = [trial["best"] for trial in second["trials"]]
    assert best[winner] == max(best)
    assert second["trials"][winner]["overrides"] in " ".join(second["line"].split())
    assert len(list(csv.DictReader((tmp_path / "found" / "results.csv").read_text().splitlines()))) == 3


@pytest.mark.slow
def test_a_search_that_was_killed_before_a_trial_had_its_folder_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def end(trial: Any, config_dir: Path | None) -> None:
        raise SystemExit(9)

    monkeypatch.chdir(tmp_path)
    line = ["-m", RATE, *SHORT, "run_dir=found", "--search", "tpe", "--trials", "2", "--json", "-q"]
    with monkeypatch.context() as patch:
        patch.setattr(run_search, "freeze_trial", end)
        with pytest.raises(SystemExit):
            main(line)
    assert not list((tmp_path / "found").glob("*/config.yaml"))
    capsys.readouterr()
    assert main(line) == 0
    assert [trial["status"] for trial in json.loads(capsys.readouterr().out)["trials"]] == ["done"] * 2


@pytest.mark.slow
def test_a_trial_that_falls_behind_is_stopped_and_stays_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("train.duration=60ep", "train.max_examples=160", "eval.run_test=false", "log.report=false")
    line = ["-m", "optim.lr=4e-3,5e-3,6e-3,1e-9", *words, "run_dir=found", "--stop-early", "asha", "--jobs", "1"]
    assert main([*line, "--json", "-q"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["trials"][3]["status"] == "stopped early"
    assert first["trials"][3]["steps"] < first["trials"][0]["steps"]
    assert main([*line, "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == first["trials"]


KILLED = (
    *("-m", "optim.lr=tag(log,interval(1e-6,1e-2))", "model=mlp", "train.max_examples=96", "train.duration=27ep"),
    *("eval.run_test=false", "log.report=false", "log.every=100step", "checkpoint.every=20ep", "run_dir=runs/killed"),
    *("--search", "tpe", "--stop-early", "asha", "--trials", "4", "--jobs", "1", "-q"),
)


def read_outcome(folder: Path) -> list[list[str]]:
    """What each trial is, and how it ended."""
    rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    return [[row[name] for name in ("overrides", "status", "best", "steps")] for row in rows]


@pytest.mark.slow
def test_a_killed_search_stops_the_same_trials_at_the_same_steps(tmp_path: Path) -> None:
    def start(folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        return subprocess.Popen([sys.executable, "-m", "dnntrain", *KILLED], cwd=folder, env=environment())

    assert start(tmp_path / "whole").wait() == 0
    for number in (2, 3):
        process = start(tmp_path / "broken")
        while not list((tmp_path / "broken" / "runs" / "killed").glob(f"000{number}-*/metrics.jsonl")):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        process.wait()
    assert start(tmp_path / "broken").wait() == 0
    outcome = read_outcome(tmp_path / "whole" / "runs" / "killed")
    assert read_outcome(tmp_path / "broken" / "runs" / "killed") == outcome
    assert len(outcome) == 4
