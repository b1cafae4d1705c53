"""folds=K: K runs, each tested on another part, and one table with an interval."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dnntrain import train
from dnntrain.choices.data.digits import Digits
from dnntrain.errors import ConfigError
from dnntrain.input.source import ArraySource
from dnntrain.input.split import find_fold
from dnntrain.run.cross_validation import format_table, summarize_folds
from dnntrain.utils.student_t import compute_t_quantile


def make_source(labels: list[int], keys: list[str] | None = None) -> ArraySource:
    source = ArraySource(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), np.array(labels), "random")
    source.keys = keys
    return source


def test_the_parts_hold_each_example_once_and_each_class_evenly() -> None:
    source = Digits().build().train
    parts = [find_fold(source, 5, fold, seed=0) for fold in range(5)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(source)))
    counts = np.stack([np.bincount(source.labels[part], minlength=10) for part in parts])
    assert (counts.max(0) - counts.min(0)).max() <= 1


def test_a_group_is_in_one_part() -> None:
    keys = [f"patient {number % 9}" for number in range(60)]
    source = make_source([number % 2 for number in range(60)], keys)
    parts = [find_fold(source, 3, fold, seed=1) for fold in range(3)]
    patients = [{keys[number] for number in part.tolist()} for part in parts]
    assert [len(names) for names in patients] == [3, 3, 3]
    assert len(set.union(*patients)) == 9


def test_another_seed_makes_other_parts() -> None:
    source = make_source([0, 1] * 30)
    assert find_fold(source, 5, 0, seed=0).tolist() != find_fold(source, 5, 0, seed=1).tolist()


def test_the_quantiles_are_those_of_student() -> None:
    from scipy.stats import t

    for freedom in (1, 2, 4, 9, 30):
        assert compute_t_quantile(0.975, freedom) == pytest.approx(t.ppf(0.975, freedom), rel=1e-4)


def test_the_interval_counts_that_training_sets_overlap() -> None:
    summary = summarize_folds("test_rmse", [1.0, 2.0, 3.0, 4.0, 5.0])
    assert summary.mean == 3.0
    assert summary.high - summary.mean == pytest.approx(2.776445 * (2.5 * (1 / 5 + 1 / 4)) ** 0.5, rel=1e-4)
    head, row = format_table([summary])
    assert head.split()[:3] == ["metric", "fold", "0"]
    assert row.startswith("rmse")


@pytest.mark.parametrize(
    "words",
    [["fold=1"], ["folds=3", "fold=3"], ["folds=3", "eval.run_test=false"], ["folds=3", "launch=slurm"]],
)
def test_settings_without_effect_are_rejected(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="fold"):
        train(*words, display="quiet")


@pytest.mark.slow
def test_one_call_trains_all_folds_and_again_trains_none(tmp_path: Path) -> None:
    words = (
        "task=regression",
        "data=diabetes",
        "model=mlp",
        "folds=3",
        "train.duration=2ep",
        "log.report=false",
        f"run_dir={tmp_path / 'folds'}",
    )
    result = train(*words, display="quiet")
    runs = [json.loads((tmp_path / "folds" / f"fold-{fold}" / "result.json").read_text()) for fold in range(3)]
    assert result["test_rmse"] == pytest.approx(np.mean([run["test_rmse"] for run in runs]))
    assert len({run["test_rmse"] for run in runs}) == 3
    evaluations = [
        json.loads((tmp_path / "folds" / f"fold-{fold}" / "evaluation.json").read_text()) for fold in range(3)
    ]
    assert sum(evaluation["examples"] for evaluation in evaluations) == 361
    assert train(*words, display="quiet")["test_rmse"] == result["test_rmse"]
