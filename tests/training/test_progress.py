"""Steps, moments and the cadence of events."""

from __future__ import annotations

import pytest

from dnntrain.training.cadence import Cadence, Event, make_event
from dnntrain.training.progress import Progress
from dnntrain.utils.epochs import EpochSchedule
from dnntrain.utils.units import Duration


def test_a_run_of_epochs_counts_every_step_once() -> None:
    progress = Progress(Duration(2, "ep"), EpochSchedule.constant(7, 1))
    assert [progress.mark_done(step) for step in progress.steps()] == list(range(1, 15))
    assert progress.step == 14
    assert progress.get_step_info(7) == (7, 1.0, 0.5)


def test_a_decision_and_a_signal_end_the_run_after_the_current_step() -> None:
    for stop in ("stop_reason", "signal"):
        progress = Progress(Duration(100, "step"), EpochSchedule.constant(7, 1))
        seen = []
        for step in progress.steps():
            seen.append(step)
            progress.mark_done(step)
            if step == 3:
                setattr(progress, stop, 15)
        assert seen == [0, 1, 2, 3]
        assert progress.step == 4


def test_a_restored_run_goes_on_where_it_was() -> None:
    first = Progress(Duration(10, "step"), EpochSchedule.constant(5, 1))
    for step in first.steps():
        if first.mark_done(step) == 4:
            first.signal = 15
    second = Progress(Duration(10, "step"), EpochSchedule.constant(5, 1))
    second.load_state_dict(first.state_dict())
    assert [second.mark_done(step) for step in second.steps()] == [5, 6, 7, 8, 9, 10]


def test_a_run_by_time_ends_when_its_time_is_up() -> None:
    progress = Progress(Duration(0.05, "s"), EpochSchedule.constant(5, 1))
    count = sum(bool(progress.mark_done(step)) for step in progress.steps())
    assert count > 10
    assert progress.get_step_info(3).fraction == 1.0


def test_events_are_due_at_their_distances_in_their_order_and_at_the_last_step() -> None:
    calls: list[tuple[str, int]] = []
    events = [Event(lambda step: calls.append(("a", step)), 3), Event(lambda step: calls.append(("b", step)), 5)]
    cadence = Cadence(events, last_step=11)
    for step in range(1, 12):
        for run in cadence.get_due(step):
            run(step)
    assert calls == [("a", 3), ("b", 5), ("a", 6), ("a", 9), ("b", 10), ("a", 11), ("b", 11)]


def test_an_event_by_time_comes_about_when_it_is_due() -> None:
    import time

    calls: list[int] = []
    cadence = Cadence(
        [make_event(calls.append, Duration(0.02, "s"), Progress(Duration(9, "ep"), EpochSchedule.constant(9, 1)))],
        last_step=10**9,
    )
    started = time.perf_counter()
    step = 0
    while time.perf_counter() - started < 0.2:
        step += 1
        for run in cadence.get_due(step):
            run(step)
    assert 2 <= len(calls) <= 10


def test_the_shortest_part_of_an_epoch_is_one_step_as_the_plan_says() -> None:
    assert Progress(Duration(0.01, "ep"), EpochSchedule.constant(10, 1)).total_steps == 1


def test_a_percentage_of_a_run_by_time_is_a_time() -> None:
    made = make_event(lambda step: None, Duration(10, "%"), Progress(Duration(90, "s"), EpochSchedule.constant(10, 1)))
    assert (made.every_steps, made.every_s) == (0, 9.0)


def test_ranks_agree_after_eight_steps_or_after_each_where_steps_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    from dnntrain.training import stop_signals

    clock = [0.0]
    monkeypatch.setattr(stop_signals.time, "perf_counter", lambda: clock[0])
    progress = Progress(Duration(100, "step"), EpochSchedule.constant(10, 1))
    asked: list[tuple[bool, ...]] = []
    watch = stop_signals.SignalWatch(progress, lambda flags: asked.append(tuple(flags)) or flags)
    cadence = Cadence([Event(watch.agree_on_stop, next_step=watch.get_next_step)], 100)
    agreed = []
    with watch:
        for step in range(1, 31):
            clock[0] += 5.0 if step <= 4 else 0.01
            for run in cadence.get_due(step):
                agreed.append(step)
                run(step)
    assert agreed == [1, 2, 3, 4, 5, 13, 21, 29]
    assert not any(stop for stop, _ in asked)


def test_ranks_agree_at_once_after_a_return_to_an_earlier_step() -> None:
    from dnntrain.training.stop_signals import SignalWatch

    watch = SignalWatch(Progress(Duration(100, "step"), EpochSchedule.constant(10, 1)), lambda flags: flags)
    watch.agree_on_stop(40)
    assert watch.get_next_step(41) == 48
    assert watch.get_next_step(12) == 12
