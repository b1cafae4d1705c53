"""Random numbers depend on their key only, and are uniform."""

from __future__ import annotations

import numpy as np
import pytest

from dnntrain.utils.rng import Key, derive_seed


def test_numbers_do_not_depend_on_what_else_is_drawn() -> None:
    key = Key(3, "crop", 7)
    whole = key.uniform(np.arange(1000))
    assert np.array_equal(key.uniform(np.arange(400, 500)), whole[400:500])
    assert np.array_equal(key.uniform(np.array([17])), whole[17:18])


def test_seed_stream_epoch_and_draw_each_change_every_number() -> None:
    index = np.arange(1000)
    base = Key(0, "crop", 0)
    others = [
        Key(1, "crop", 0).bits(index),
        Key(0, "flip", 0).bits(index),
        base.with_epoch(1).bits(index),
        base.bits(index, 1),
    ]
    for other in others:
        assert not np.any(base.bits(index) == other)


def test_values_are_the_same_on_every_machine() -> None:
    assert derive_seed(0, "init", "conv1") == derive_seed(0, "init", "conv1")
    assert Key(0, "shuffle", 0).bits(np.arange(2)).tolist() == [3201699782957677027, 1975082508583024751]


def test_uniform_numbers_pass_a_chi_square_test_and_are_uncorrelated() -> None:
    values = Key(5, "x").uniform(np.arange(100_000))
    counts = np.histogram(values, 100, (0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 150  # 99 degrees of freedom: beyond 150 once in 1,500 seeds
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(values, Key(5, "x").uniform(np.arange(100_000), 1))[0, 1]) < 0.01


@pytest.mark.parametrize("bound", [1, 2, 7, 1000])
def test_integers_stay_below_their_bound_and_reach_all_of_it(bound: int) -> None:
    values = Key(1, "i").integers(np.arange(20_000), bound)
    assert set(np.unique(values)) == set(range(bound))


def test_a_permutation_holds_each_entry_once_and_keeps_the_relative_order_of_a_subset() -> None:
    index = np.arange(0, 500)
    order = Key(2, "shuffle", 4).permutation(index)
    assert sorted(order) == list(index)
    assert not np.array_equal(order, index)
    subset = Key(2, "shuffle", 4).permutation(index[::3])
    assert np.array_equal(subset, [entry for entry in order if entry % 3 == 0])
