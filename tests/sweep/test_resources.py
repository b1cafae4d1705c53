"""How many trials run at once, and on what."""

from __future__ import annotations

import pytest

from dnntrain.errors import ConfigError
from dnntrain.sweep.resources import ResourceDemand, Resources, divide_machine

GIB = 2**30


def test_each_rank_of_each_trial_has_a_core_and_the_rest_is_shared_out() -> None:
    slots = divide_machine([ResourceDemand(2)] * 6, (), range(8), 0)
    assert slots == [Resources((), (0, 1)), Resources((), (2, 3)), Resources((), (4, 5)), Resources((), (6, 7))]
    assert divide_machine([ResourceDemand(1)] * 2, (), range(8), 0) == [
        Resources((), (0, 1, 2, 3)),
        Resources((), (4, 5, 6, 7)),
    ]
    assert len(divide_machine([ResourceDemand(2, threads=4)] * 6, (), range(8), 0)) == 1


def test_slots_hold_the_largest_trial() -> None:
    assert len(divide_machine([ResourceDemand(1), ResourceDemand(4)], (), range(8), 0)) == 2
    assert len(divide_machine([ResourceDemand(1)] * 7 + [ResourceDemand(8)], (), range(8), 0)) == 1


def test_trials_share_the_memory_of_the_host() -> None:
    assert len(divide_machine([ResourceDemand(1, memory_bytes=3 * GIB)] * 8, (), range(8), 10 * GIB)) == 3
    assert len(divide_machine([ResourceDemand(1, memory_bytes=30 * GIB)] * 8, (), range(8), 10 * GIB)) == 1


def test_each_trial_has_its_own_accelerators() -> None:
    slots = divide_machine([ResourceDemand(2, devices=2)] * 3, ("0", "1", "GPU-a", "GPU-b"), range(8), 0)
    assert slots == [Resources(("0", "1"), (0, 1, 2, 3)), Resources(("GPU-a", "GPU-b"), (4, 5, 6, 7))]


def test_trials_that_name_one_accelerator_wait_for_each_other() -> None:
    assert len(divide_machine([ResourceDemand(1, devices=1, device=1)] * 3, ("0", "1"), range(8), 0)) == 1


def test_more_at_once_shares_cores_but_no_accelerators() -> None:
    assert divide_machine([ResourceDemand(2)] * 3, (), (0, 1), 0, jobs=3) == [
        Resources((), (0,)),
        Resources((), (1,)),
        Resources((), (0,)),
    ]
    assert len(divide_machine([ResourceDemand(1)] * 3, (), range(8), 0, jobs=1)) == 1
    with pytest.raises(ConfigError, match="only 2 trials of 2 devices can run at once on 4"):
        divide_machine([ResourceDemand(2, devices=2)] * 3, ("0", "1", "2", "3"), range(8), 0, jobs=3)
    for demand in (ResourceDemand(1, devices=1), ResourceDemand(1, devices=1, device=0)):
        with pytest.raises(ConfigError, match=r"only 1 trial of 1 device can run at once on 1\n.*--jobs 1"):
            divide_machine([demand] * 2, ("0",), range(8), 0, jobs=4)
