"""Early stopping ends the run after its patience, and remembers it over a resume."""

from __future__ import annotations

from typing import Any

import pytest
from stand_ins import METRICS

from dnntrain.choices.monitor.early_stopping import PatienceCounter
from dnntrain.protocols import LOSS

#: The usual metric of a classification.
ACCURACY = METRICS[0]


def stops_at(watcher: PatienceCounter, values: list[float], metric: str = "accuracy") -> int | None:
    for number, value in enumerate(values):
        if watcher({"split": "val", metric: value}) is not None:
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
    watcher({"split": "val", "accuracy": 0.9})
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
    assert [watcher({"split": "val", "loss": value}) for value in values] == [None] * 4
