"""The time of a search: an attempt that cannot end in time is not begun."""

from __future__ import annotations

import time

import pytest

from dnntrain.tune.budget import Budget


class Clock:
    """A clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def try_all(clock: Clock, budget: Budget, durations: list[float]) -> int:
    """The number of attempts that were begun."""
    for number, seconds in enumerate(durations):
        if not budget.has_time:
            return number
        with budget.attempt():
            clock.now += seconds
    return len(durations)


@pytest.mark.parametrize(
    ("final_share", "durations", "begun"),
    [
        (0.0, [10.0] * 20, 11),
        (0.2, [10.0] * 20, 9),
        (0.0, [100.0] * 3, 1),
        (0.2, [100.0] * 3, 1),
        (0.2, [50.0] * 3, 1),
        (0.0, [50.0] * 3, 2),
        (0.2, [300.0] * 3, 1),
        (0.2, [5.0, 40.0, 40.0, 40.0], 4),
    ],
)
def test_no_attempt_begins_that_is_longer_than_the_time_that_is_left(
    final_share: float, durations: list[float], begun: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    assert try_all(clock, Budget(120.0, final_share), durations) == begun


def test_the_time_of_an_attempt_is_kept_for_the_last_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    budget = Budget(100.0, 0.2)
    assert (budget.left_s, budget.final_s) == (80.0, 100.0)
    try_all(clock, budget, [30.0])
    assert (budget.left_s, budget.final_s) == (40.0, 70.0)


def test_a_setting_that_was_kept_needs_its_time_again_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that lose take less time than those that win, and only the winners are measured again."""
    clock = Clock(monkeypatch)
    budget = Budget(100.0, 0.2)
    try_all(clock, budget, [5.0, 35.0])
    budget.expect_final()
    assert budget.left_s == 60.0 - 35.0
