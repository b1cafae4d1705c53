"""Each guard alone: its formula, its state, what it asks for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from stand_ins import built
from torch import nn

from dnntrain.choices.monitor.data_stall import DataStall, DataStallGuard
from dnntrain.choices.monitor.dead_units import DeadUnits, DeadUnitsGuard, find_living_units
from dnntrain.choices.monitor.gradient_norm import GradientNorm, GradientNormGuard
from dnntrain.choices.monitor.loss_spike import LossSpike, LossSpikeGuard, compute_robust_score
from dnntrain.choices.monitor.non_finite import NonFinite, NonFiniteGuard
from dnntrain.choices.monitor.straggler import find_slowest_rank
from dnntrain.config.validate import validate_overrides
from dnntrain.errors import ConfigError
from dnntrain.protocols import Action, Alarm, StepStats, StepTiming


def seen(step: int, loss: float = 1.0, norm: float = 1.0, sums: tuple[float, ...] = ()) -> StepStats:
    return StepStats(step, loss, norm, sums)


def test_the_robust_score_counts_deviations_from_the_median() -> None:
    # Median 3, absolute deviations 2 1 0 1 2: their median is 1.
    assert compute_robust_score([1, 2, 3, 4, 5], 6.0) == pytest.approx(3 / 1.4826)
    assert compute_robust_score([2.0, 2.0, 2.0], 2.3) == pytest.approx(0.3 / (0.05 * 2))
    assert compute_robust_score([1, 2, 3], math.nan) == math.inf


def test_a_spike_is_told_once_half_of_the_window_is_filled_and_does_not_enter_it() -> None:
    guard = LossSpikeGuard(LossSpike(window=4))
    assert guard.judge(seen(1, 1.0)) is None
    assert guard.judge(seen(2, 50.0)) is None
    guard = LossSpikeGuard(LossSpike(window=4))
    for step in range(1, 5):
        assert guard.judge(seen(step, 1.0 + step / 100)) is None
    alarm = guard.judge(seen(5, 50.0))
    assert alarm is not None
    assert alarm.action is Action.SKIP
    assert 50.0 not in guard.window.values
    other = LossSpikeGuard(LossSpike(window=4))
    other.window.load_state_dict(guard.window.state_dict())
    assert other.window.values == guard.window.values


@pytest.mark.parametrize("guard", [LossSpikeGuard(LossSpike(window=4)), GradientNormGuard(GradientNorm(window=4))])
def test_windows_begin_again_when_weights_become_zero(guard: LossSpikeGuard | GradientNormGuard) -> None:
    guard.bind(replace(built(nn.Linear(1, 1)), mask_steps=(3, 8)))
    assert [guard.judge(seen(step)) for step in (1, 2, 3)] == [None] * 3
    # Step 4 is the first one with fewer weights, as is step 10 if step 9 is dropped.
    assert guard.judge(seen(4, 50.0, 50.0)) is None
    assert [guard.judge(seen(step, 50.0, 50.0)) for step in (5, 6, 7, 8)] == [None] * 4
    assert guard.judge(seen(10, 5000.0, 5000.0)) is None
    assert guard.judge(seen(11, 5000.0, 5000.0)) is None
    assert guard.judge(seen(12, 1e8, 1e8)) is not None


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.inf), (math.nan, math.nan)])
def test_a_loss_or_gradient_that_is_not_finite_is_told(loss: float, norm: float) -> None:
    guard = NonFiniteGuard(NonFinite(action="stop"))
    assert guard.judge(seen(1)) is None
    alarm = guard.judge(seen(2, loss, norm))
    assert alarm is not None
    assert alarm.action is Action.STOP
    value = alarm.values["value"]
    assert isinstance(value, float)
    assert not math.isfinite(value)


def test_a_norm_is_compared_with_the_median() -> None:
    guard = GradientNormGuard(GradientNorm(window=4, max_ratio=3.0))
    for step, norm in enumerate((1.0, 2.0, 3.0, 2.0), 1):
        assert guard.judge(seen(step, norm=norm)) is None
    assert guard.judge(seen(5, norm=6.0)) is None
    assert guard.judge(seen(6, norm=9.1)) is not None
    assert guard.judge(seen(7, norm=math.inf)) is not None


@pytest.mark.parametrize("words", [{"action": "skip", "lr_factor": 0.1}, {"action": "log", "max_recoveries": 9}])
def test_a_knob_without_effect_is_refused(words: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no effect"):
        LossSpike(**words)  # type: ignore[arg-type]


def test_units_that_are_zero_for_all_examples_are_counted() -> None:
    assert find_living_units(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]), 1).tolist() == [False, True, True]
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.fill_(1.0)  # type: ignore[union-attr, operator]
        model[0].bias.copy_(torch.tensor([0.0, -99.0, -99.0, -99.0]))  # type: ignore[union-attr, operator]
    guard = DeadUnitsGuard(DeadUnits(every_steps=2, window=1))
    guard.bind(built(model))
    images = torch.rand(5, 3)
    model(images)  # not looked at
    assert guard.measure(StepTiming(1, 0.0)) is None
    model(images)
    counts = guard.measure(StepTiming(2, 0.0))
    assert counts is not None
    assert counts.tolist() == [1.0, 0.0, 0.0, 0.0]
    alarm = guard.judge(seen(2, sums=tuple(counts.tolist())))
    assert alarm is not None
    assert alarm.values == {"dead_fraction": 0.75}


def test_a_count_that_was_left_out_leaves_nothing_to_the_next_one() -> None:
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    guard = DeadUnitsGuard(DeadUnits(every_steps=4, window=2))
    guard.bind(built(model))
    for step in (1, 2, 3, 5, 6, 7, 8):  # 4 is left out
        with torch.no_grad():
            model[0].weight.fill_(0.0)  # type: ignore[union-attr, operator]
            model[0].bias.fill_(1.0 if step < 6 else -1.0)  # type: ignore[union-attr, operator]
        model(torch.ones(1, 1))
        counted = guard.measure(StepTiming(step, 0.0))
    assert counted is not None
    assert counted.tolist() == [0.0, 0.0]


def counts(guard: DeadUnitsGuard, step: int, *alive: float) -> Alarm | None:
    return guard.judge(seen(step, sums=alive))


def test_dead_units_go_back_to_before_the_steps_of_the_last_good_count_and_leave_none_out() -> None:
    guard = DeadUnitsGuard(DeadUnits(action="rollback", every_steps=10, window=3))
    first = counts(guard, 10, 0.0, 0.0)
    assert first is not None
    assert (first.action, first.last_good_step, first.lr_factor) == (Action.ROLLBACK, 0, 0.5)
    assert counts(guard, 20, 1.0, 0.0) is None
    second = counts(guard, 30, 0.0, 0.0)
    assert second is not None
    assert second.last_good_step == 17
    guard.measure(StepTiming(30, 0.0))
    assert guard.rollback_steps == (17, 37)
    # The state of an earlier step is restored: what was found good stays so.
    early = DeadUnitsGuard(DeadUnits(action="rollback", every_steps=10, window=3)).state_dict()
    guard.load_state_dict(early)
    assert guard.rollback_steps[0] == 17


@pytest.mark.parametrize(
    ("name", "action", "instead"),
    [
        ("data_stall", "skip", "monitor.data_stall.action=log"),
        ("data_stall", "rollback", "monitor.data_stall.action=log"),
        ("straggler", "skip", "monitor.straggler.action=log"),
        ("straggler", "rollback", "monitor.straggler.action=log"),
        ("dead_units", "skip", "monitor.dead_units.action=rollback"),
    ],
)
def test_an_action_that_could_not_help_is_refused_with_one_that_works(name: str, action: str, instead: str) -> None:
    with pytest.raises(ConfigError, match=f"monitor.{name}.action={action}: .*; use {instead}"):
        validate_overrides([f"monitor=[{name}]", f"monitor.{name}.action={action}"])
    validate_overrides([f"monitor=[{name}]", instead])


def test_the_slowest_rank_is_compared_with_the_others() -> None:
    assert find_slowest_rank([1.0, 2.0, 1.0, 1.2]) == (1, 2.0)
    assert find_slowest_rank([3.0, 1.0]) == (0, 3.0)


def test_waiting_is_a_share_of_the_time_since_the_last_look() -> None:
    now = iter([0.0, 10.0, 20.0])
    guard = DataStallGuard(DataStall(every_steps=2, max_wait_fraction=0.3), clock=lambda: next(now))
    assert guard.measure(StepTiming(1, 9.0)) is None  # workers start
    first = guard.measure(StepTiming(2, 2.0))
    assert first is not None
    assert guard.judge(seen(2, sums=tuple(first.tolist()))) is None
    guard.measure(StepTiming(3, 2.0))
    second = guard.measure(StepTiming(4, 2.0))
    assert second is not None
    alarm = guard.judge(seen(4, sums=tuple(second.tolist())))
    assert alarm is not None
    assert alarm.values["waiting"] == pytest.approx(0.4)
