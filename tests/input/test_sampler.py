"""Who computes what: every example once an epoch, in shares that respect pair blocks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnntrain.input.sampler import BatchSchedule
from dnntrain.input.source import ArraySource
from dnntrain.input.split import hold_out_examples, split_validation
from dnntrain.utils.rng import Key
from dnntrain.utils.world import World


def schedule(
    count: int, batch: int, micro: int, rank: int = 0, ranks: int = 1, block: int = 8, **options: Any
) -> BatchSchedule:
    return BatchSchedule(np.arange(count), 5, batch, micro, World(rank, ranks), block, **options)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 64), st.integers(1, 5), st.sampled_from([1, 4, 8]))
def test_all_ranks_together_cover_each_position_once(
    count: int, batch: int, micro: int, ranks: int, block: int
) -> None:
    seen: list[int] = []
    for step in range(schedule(count, batch, micro).steps_per_epoch):
        for rank in range(ranks):
            for start, end in schedule(count, batch, micro, rank, ranks, block).get_step_ranges(step):
                assert 0 < end - start <= micro
                seen += range(start, end)
    assert seen == list(range(count))


@pytest.mark.parametrize(("batch", "micro", "ranks"), [(128, 128, 1), (128, 40, 3), (64, 20, 2), (48, 8, 4)])
def test_bounds_are_multiples_of_the_pair_block_where_they_can_be(batch: int, micro: int, ranks: int) -> None:
    for rank in range(ranks):
        part = schedule(1000, batch, micro, rank, ranks)
        assert part.is_aligned
        assert all(start % 8 == 0 for start, _ in part.get_step_ranges(1))


def test_a_batch_that_cuts_pair_blocks_is_not_aligned() -> None:
    assert not schedule(1000, 100, 100).is_aligned
    assert not schedule(1000, 128, 4).is_aligned


def test_a_step_with_fewer_examples_than_ranks_gives_some_rank_nothing() -> None:
    shares = [schedule(17, 16, 8, rank, 4).get_step_ranges(1) for rank in range(4)]
    assert sum(len(share) for share in shares) == 1


@pytest.mark.parametrize(
    ("last", "kept", "shares"),
    [
        (13, 1, [(0, 7), (7, 13)]),
        (13, 8, [(0, 8), (8, 13)]),
        (8, 1, [(0, 4), (4, 8)]),
        (8, 8, [(0, 8)]),
        (1, 1, [(0, 1)]),
        (13, 4, [(0, 8), (8, 13)]),
    ],
)
def test_a_short_step_is_divided_evenly_unless_blocks_are_kept(
    last: int, kept: int, shares: list[tuple[int, int]]
) -> None:
    ranks = [schedule(16 + last, 16, 8, rank, 2, kept_block_size=kept) for rank in range(2)]
    passes = [part for rank in ranks for part in rank.cut_passes(last, rank.world.rank)]
    assert passes == shares


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.integers(1, 64), st.integers(2, 32), st.integers(1, 4), st.sampled_from([1, 4, 8]))
def test_joint_passes_are_the_micro_batches_of_one_process(
    count: int, batch: int, micro: int, ranks: int, block: int
) -> None:
    one = schedule(count, batch, micro * ranks, block=block)
    joint = [
        schedule(count, batch, micro, rank, ranks, block, kept_block_size=1, joins_ranks=True) for rank in range(ranks)
    ]
    for step in range(one.steps_per_epoch):
        parts = [rank.get_step_ranges(step) for rank in joint]
        passes = [[part[i] for part in parts if i < len(part)] for i in range(max(map(len, parts)))]
        assert all(part[1] == following[0] for ranges in passes for part, following in pairwise(ranges))
        assert [(ranges[0][0], ranges[-1][1]) for ranges in passes] == one.get_step_ranges(step)


def test_an_epoch_without_its_last_step_has_whole_steps_only() -> None:
    part = schedule(61, 16, 16, drop_last=True)
    assert [part.count_examples(step) for step in range(part.steps_per_epoch)] == [16, 16, 16]


def test_passes_are_those_of_the_rank_that_has_most_micro_batches() -> None:
    # Five blocks of 8 on two ranks: 16 examples, and 24, which are cut into 16 and 8.
    ranks = [schedule(40, 40, 20, rank, ranks=2) for rank in range(2)]
    assert [len(rank.get_step_ranges(0)) for rank in ranks] == [1, 2]
    assert [rank.count_micro_batches(0) for rank in ranks] == [2, 2]


def test_the_order_is_the_keyed_permutation_and_changes_with_the_epoch() -> None:
    part = schedule(500, 16, 16)
    assert (part.compute_order(2) == Key(5, "shuffle", 2).permutation(np.arange(500))).all()
    assert (part.compute_order(2) != part.compute_order(3)).any()
    assert sorted(part.compute_order(3)) == list(range(500))


def make_source(labels: np.ndarray) -> ArraySource:
    return ArraySource(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels, "numbered")


def test_validation_is_stratified_disjoint_and_keyed_by_the_seed() -> None:
    labels = np.repeat([0, 1, 2], [500, 300, 200])
    train, val = split_validation(make_source(labels), 0.1, seed=0)
    assert np.bincount(labels[val]).tolist() == [50, 30, 20]
    assert sorted([*train, *val]) == list(range(1000))
    assert (np.diff(train) > 0).all()
    assert (np.diff(val) > 0).all()
    assert val.tolist() == split_validation(make_source(labels), 0.1, seed=0)[1].tolist()
    assert val.tolist() != split_validation(make_source(labels), 0.1, seed=1)[1].tolist()


def test_no_validation_part_where_none_is_asked_for() -> None:
    train, val = split_validation(make_source(np.arange(100) % 10), 0.0, seed=0)
    assert (len(train), len(val)) == (100, 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.floats(0, 0.99))
def test_every_class_keeps_an_example_to_train_on(sizes: list[int], fraction: float) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    kept, held = hold_out_examples(labels, round(fraction * len(labels)), Key(1, "held"))
    assert len(kept) + len(held) == len(labels)
    assert set(labels[kept]) == set(range(len(sizes)))
