"""`dnntrain bisect`: which of the settings in which two runs differ lost the metric."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dnntrain.config.compose import compose
from dnntrain.config.saved_config import write_saved_config
from dnntrain.errors import ConfigError, DivergedError
from dnntrain.prove import pairs
from dnntrain.prove.bisect import BisectResult, bisect_runs, find_culprits, format_bisection
from dnntrain.prove.delta import minimize_changes
from dnntrain.prove.run_prove import ProveOptions
from dnntrain.prove.setting_changes import Change, list_changes, make_words
from dnntrain.prove.verdict import Rules, Verdict, judge_differences
from dnntrain.utils.sealed_json import write_sealed_json

GOOD = ("data=digits", "model=mlp", "+reg=[grad_clip]", "train.duration=2ep")
BAD = (
    "data=digits",
    "model=mlp",
    "+average=[ema]",
    "average.ema.decay=0.9",
    "optim=sgd",
    "optim.lr=3e-5",
    "sched=linear",
    "train.duration=2ep",
    "eval.batch_size=64",
)


@pytest.mark.parametrize("causes", [{3}, {0, 7}, {1, 2, 3}, set(range(9))])
def test_a_smallest_set_of_changes_is_found(causes: set[int]) -> None:
    asked = []

    def has_effect(items: tuple[int, ...]) -> bool:
        asked.append(items)
        return causes <= set(items)

    assert set(minimize_changes(range(9), has_effect)) == causes
    assert len(asked) == len(set(asked))


def test_a_single_cause_needs_few_comparisons() -> None:
    asked = []

    def has_effect(items: tuple[int, ...]) -> bool:
        asked.append(items)
        return 13 in items

    assert minimize_changes(range(32), has_effect) == (13,)
    assert len(asked) <= 10


def without_names(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in ("name", "choices")}


def test_all_changes_together_make_the_other_configuration() -> None:
    good, bad = compose(GOOD, quiet=True), compose(BAD, quiet=True)
    changes = list_changes(good, bad)
    words = make_words(good, changes)
    assert without_names(compose(words, saved=good, quiet=True)) == without_names(bad)
    texts = [change.text for change in changes]
    assert "eval.batch_size=64" in texts
    assert any(text.startswith("optim=sgd optim.lr=3e-05") for text in texts)
    assert "without reg.grad_clip" in texts
    assert any(text.startswith("with average.ema") for text in texts)
    assert list_changes(good, good) == []


def test_one_change_alone_leaves_the_rest_of_the_good_configuration() -> None:
    good, bad = compose(GOOD, quiet=True), compose(BAD, quiet=True)
    (change,) = [change for change in list_changes(good, bad) if change.choice == "grad_clip"]
    changed = compose(make_words(good, [change]), saved=good, quiet=True)
    assert "grad_clip" not in changed["reg"]
    assert changed["optim"] == good["optim"]


def judge_as(causes: set[str]) -> Any:
    def judge(items: tuple[Change, ...]) -> Verdict:
        lost = causes <= {change.text for change in items}
        return judge_differences([-0.1 if lost else 0.01 * (-1) ** number for number in range(8)], Rules(max_pairs=8))

    return judge


def test_the_culprit_is_named_and_the_others_are_cleared() -> None:
    changes = [Change((f"key{number}=1",)) for number in range(6)]
    result = find_culprits(changes, judge_as({"key4=1"}))
    assert [change.text for change in result.culprits] == ["key4=1"]
    assert result.others is not None
    assert result.others.verdict != "worse"
    lines = list(format_bisection(result))
    assert lines[0].startswith("all 6 changes: worse")
    assert "  key4=1" in lines
    assert lines[-1] == f"without it, the other 5 changes: {result.others.verdict}"


def test_nothing_is_named_if_the_runs_are_not_known_to_differ() -> None:
    changes = [Change((f"key{number}=1",)) for number in range(3)]
    result = find_culprits(changes, judge_as({"elsewhere"}))
    assert result.culprits == ()
    assert result.whole.verdict == "undecided"
    first = next(iter(format_bisection(result)))
    assert first.startswith("undecided after 8 pairs with all 3 changes")
    assert "whether they lose the metric is unknown" in first
    better = BisectResult(result.changes, judge_differences([0.1] * 8, Rules()))
    assert "together they do not lower the metric" in next(iter(format_bisection(better)))


def save(folder: Path, *words: str) -> Path:
    folder.mkdir()
    write_saved_config(folder, compose(words, quiet=True))
    return folder


@pytest.mark.slow
def test_pairs_are_trained_from_the_saved_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training is replaced by a formula: a real one is in the documentation's example."""
    trials: dict[Path, dict[str, Any]] = {}

    def prepare(number: int, combination: object, config: dict[str, Any], path: Path) -> tuple[SimpleNamespace]:
        assert path.parent.is_dir()
        trials[path] = config
        return (SimpleNamespace(folder=path, config=config),)

    def read(folder: Path, number: int, runs: tuple[Path, Path], metric: object) -> tuple[float, float]:
        good, bad = (0.9 - 0.3 * (trials[run]["optim"]["lr"] < 1e-4) + 0.001 * trials[run]["seed"] for run in runs)
        return good, bad

    monkeypatch.setattr(pairs, "prepare_trial", prepare)
    monkeypatch.setattr(pairs, "train_trial", lambda *arguments: None)
    monkeypatch.setattr(pairs, "_read_pair_once", read)
    good = save(tmp_path / "good", "model=mlp")
    bad = save(tmp_path / "bad", "model=mlp", "optim.lr=3e-5", "eval.batch_size=64")
    result = bisect_runs(good, bad, ProveOptions(max_pairs=5, alpha=0.3), tmp_path / "folder", lambda text: None)
    (culprit,) = result.culprits
    assert culprit.text == "optim.lr=3e-05"
    (shared,) = {folder.parent for folder in trials if folder.name.endswith("-a")}
    assert shared.name.startswith("good-")
    trials.clear()
    other = save(tmp_path / "other", "model=mlp", "train.batch_size=16")
    bisect_runs(other, bad, ProveOptions(max_pairs=5, alpha=0.3), tmp_path / "folder", lambda text: None)
    assert not any(folder.parent == shared for folder in trials)
    assert (tmp_path / "folder" / "bisect.json").is_file()
    with pytest.raises(ConfigError, match="have the same settings"):
        bisect_runs(good, good, ProveOptions(), None, lambda text: None)


@pytest.mark.slow
def test_changes_that_diverge_are_worse_and_those_that_cannot_be_trained_say_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training is replaced: a rate of 9 diverges without grad_clip, and 4 blocks need the width of the bad run."""
    launches = []

    def prepare(number: int, combination: object, config: dict[str, Any], path: Path) -> tuple[SimpleNamespace]:
        launches.append(config["choices"]["launch"])
        if config["model"]["depth"] == 4 and config["model"]["embed_dim"] != 64:
            raise ConfigError("model.depth=4 needs model.embed_dim=64")
        return (SimpleNamespace(folder=path, config=config),)

    def train(trial: SimpleNamespace, *arguments: object) -> None:
        trial.folder.mkdir(exist_ok=True)
        if trial.config["optim"]["lr"] == 9:
            write_sealed_json(trial.folder / "result.json", {"status": "diverged"})
            raise DivergedError("the loss of step 2 is nan")

    monkeypatch.setattr(pairs, "prepare_trial", prepare)
    monkeypatch.setattr(pairs, "train_trial", train)
    monkeypatch.setattr(pairs, "_read_pair_once", lambda *arguments: (0.5, 0.5))
    good = save(tmp_path / "good", "model=vit_tiny", "launch=slurm")
    bad = save(tmp_path / "bad", "model=vit_tiny", "model.depth=4", "model.embed_dim=64", "optim.lr=9", "launch=slurm")
    said: list[str] = []
    result = bisect_runs(good, bad, ProveOptions(), tmp_path / "folder", said.append)
    assert [change.text for change in result.culprits] == ["optim.lr=9.0"]
    assert any("cannot be trained (model.depth=4 needs model.embed_dim=64)" in text for text in said)
    assert "this setting loses it (training diverges):" in list(format_bisection(result))
    assert set(launches) == {"local"}
    with pytest.raises(ConfigError, match=r"needs model\.embed_dim=64"):
        bisect_runs(
            good, save(tmp_path / "other", "model=vit_tiny", "model.depth=4"), ProveOptions(), None, said.append
        )

    def diverge_if_good(trial: SimpleNamespace, *arguments: object) -> None:
        if trial.folder.name.endswith("-a"):
            raise DivergedError("the loss of step 2 is nan")

    monkeypatch.setattr(pairs, "train_trial", diverge_if_good)
    with pytest.raises(DivergedError):
        bisect_runs(good, bad, ProveOptions(), tmp_path / "good-diverges", said.append)
