"""How many trials run at once, and on what."""

from __future__ import annotations

import pytest

from dnntrain.errors import ConfigError
from dnntrain.sweep.resources import Need, Slot, divide

GIB = 2**30


def test_each_rank_of_each_trial_has_a_core_and_the_rest_is_shared_out() -> None:
    slots = divide([Need(2)] * 6, (), range(8), 0)
    assert slots == [Slot((), (0, 1)), Slot((), (2, 3)), Slot((), (4, 5)), Slot((), (6, 7))]
    assert divide([Need(1)] * 2, (), range(8), 0) == [Slot((), (0, 1, 2, 3)), Slot((), (4, 5, 6, 7))]
    assert len(divide([Need(2, threads=4)] * 6, (), range(8), 0)) == 1


def test_slots_hold_the_largest_trial() -> None:
    assert len(divide([Need(1), Need(4)], (), range(8), 0)) == 2
    assert len(divide([Need(1)] * 7 + [Need(8)], (), range(8), 0)) == 1


def test_trials_share_the_memory_of_the_host() -> None:
    assert len(divide([Need(1, memory_bytes=3 * GIB)] * 8, (), range(8), 10 * GIB)) == 3
    assert len(divide([Need(1, memory_bytes=30 * GIB)] * 8, (), range(8), 10 * GIB)) == 1


def test_each_trial_has_its_own_accelerators() -> None:
    slots = divide([Need(2, devices=2)] * 3, ("0", "1", "GPU-a", "GPU-b"), range(8), 0)
    assert slots == [Slot(("0", "1"), (0, 1, 2, 3)), Slot(("GPU-a", "GPU-b"), (4, 5, 6, 7))]


def test_trials_that_name_one_accelerator_wait_for_each_other() -> None:
    assert len(divide([Need(1, devices=1, device=1)] * 3, ("0", "1"), range(8), 0)) == 1


def test_more_at_once_shares_cores_but_no_accelerators() -> None:
    assert divide([Need(2)] * 3, (), (0, 1), 0, at_once=3) == [Slot((), (0,)), Slot((), (1,)), Slot((), (0,))]
    assert len(divide([Need(1)] * 3, (), range(8), 0, at_once=1)) == 1
    with pytest.raises(ConfigError, match="2 trials of 2 devices fit on 4 at once"):
        divide([Need(2, devices=2)] * 3, ("0", "1", "2", "3"), range(8), 0, at_once=3)
