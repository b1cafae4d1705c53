"""Early stopping ends the run after its patience, and remembers it over a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from short_runs import rows, trained
from stand_ins import METRICS
from torch import nn

from dnntrain.choices.monitor.early_stopping import PatienceCounter
from dnntrain.protocols import LOSS, SingleProcess, TrainerHandles

#: The usual metric of a classification.
ACCURACY = METRICS[0]


def stops_at(watcher: PatienceCounter, values: list[float], metric: str = "accuracy") -> int | None:
    for number, value in enumerate(values):
        if watcher({"split": "val", "step": number, metric: value}) is not None:
            return number
    return None


def test_it_stops_after_patience_evaluations_without_improvement() -> None:
    assert stops_at(PatienceCounter(ACCURACY, 2, 0.0), [0.5, 0.6, 0.6, 0.59, 0.9]) == 3


def test_it_goes_on_while_the_metric_improves() -> None:
    assert stops_at(PatienceCounter(LOSS, 1, 0.0), [1.0, 0.9, 0.8, 0.7], "loss") is None


def test_an_improvement_below_the_threshold_does_not_count() -> None:
    assert stops_at(PatienceCounter(ACCURACY, 2, 0.05), [0.5, 0.52, 0.54]) == 2


@pytest.mark.parametrize("row", [{"split": "train", "loss": 1.0}, {"split": "test", "accuracy": 0.1}])
def test_only_validation_counts(row: dict[str, Any]) -> None:
    watcher = PatienceCounter(ACCURACY, 1, 0.0)
    watcher({"split": "val", "step": 1, "accuracy": 0.9})
    assert watcher(row) is None


def test_state_survives() -> None:
    first = PatienceCounter(ACCURACY, 3, 0.0)
    stops_at(first, [0.5, 0.4, 0.4])
    second = PatienceCounter(ACCURACY, 3, 0.0)
    second.load_state_dict(first.state_dict())
    assert stops_at(second, [0.4]) == 0


def test_a_first_value_that_is_not_a_number_is_no_best_to_beat() -> None:
    watcher = PatienceCounter(LOSS, 2, 0.0)
    values = [float("nan"), 1.0, 0.5, 0.4]
    assert [watcher({"split": "val", "step": 1, "loss": value}) for value in values] == [None] * 4


def test_patience_counts_from_the_last_change_of_the_network_on() -> None:
    watcher = PatienceCounter(ACCURACY, 2, 0.0)
    handles = TrainerHandles(nn.Module(), (), lambda steps: iter(()), SingleProcess(), last_change_step=5)
    watcher.bind(handles)
    assert stops_at(watcher, [0.9, 0.8, 0.8, 0.8, 0.8]) is None
    # The evaluation of the uncut network at the step of the cut is forgotten with it.
    assert watcher({"split": "val", "step": 5, "accuracy": 0.9}) is None
    assert watcher({"split": "event", "step": 5, "event": "pruned"}) is None
    verdicts = [watcher({"split": "val", "step": step, "accuracy": 0.5}) is not None for step in (6, 7, 8)]
    assert verdicts == [False, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("prune", ["magnitude", "nm24", "structured", "depth"])
def test_a_run_is_not_stopped_before_it_is_pruned(tmp_path: Path, prune: str) -> None:
    model = ("model=resnet_cifar", "model.depth=14", "model.width=4", "train.channels_last=off", "optim.lr=1e-9")
    words = (f"prune={prune}", "prune.at=50%", "monitor=[early_stopping]", "monitor.early_stopping.patience=1")
    length = ("train.duration=10step", "train.max_examples=64", "eval.every=1step", "eval.max_examples=20")
    # A rate of nearly 0 leaves the metric as it is.
    margin = "monitor.early_stopping.min_delta=0.5"
    ended = trained(
        tmp_path / "run",
        *model,
        *words,
        *length,
        margin,
        *(["prune.cuts=2", "prune.until=60%"] if prune == "magnitude" else []),
    )
    written = rows(tmp_path / "run")
    changes = [row["step"] for row in written if row["split"] == "event" and row["event"] in ("pruned", "masked")]
    (stop,) = [row["step"] for row in written if row["split"] == "event" and row["event"] == "stop"]
    assert ended["status"] == "done"
    assert changes == ([5, 6] if prune == "magnitude" else [5])
    # The first evaluation of the pruned network is its best one, and the next does not improve on it.
    assert stop == changes[-1] + (2 if prune in ("structured", "depth") else 1)
