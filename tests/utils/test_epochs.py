"""Epochs and steps where the batch size changes between epochs, against a loop over all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnntrain.input.sampler import BatchSchedule, BatchSchedules
from dnntrain.training.cadence import Cadence, make_event
from dnntrain.training.progress import Progress
from dnntrain.utils.epochs import BatchSizeSchedule, EpochSchedule
from dnntrain.utils.units import Duration
from dnntrain.utils.world import World


def walked(examples: int, sizes: list[int]) -> list[tuple[int, int, int, int]]:
    """(epoch, number in it, first position, one past the last) of every step."""
    steps = []
    for epoch, size in enumerate(sizes):
        steps += [(epoch, number, at, min(at + size, examples)) for number, at in enumerate(range(0, examples, size))]
    return steps


def of_sizes(examples: int, sizes: list[int]) -> EpochSchedule:
    changes = [(epoch, size) for epoch, size in enumerate(sizes) if epoch == 0 or size != sizes[epoch - 1]]
    return EpochSchedule(examples, tuple(changes))


EXAMPLES_AND_SIZES = (st.integers(1, 80), st.lists(st.integers(1, 40), min_size=1, max_size=7))


@settings(max_examples=200, deadline=None)
@given(*EXAMPLES_AND_SIZES)
def test_steps_and_epochs_are_those_of_a_loop(examples: int, sizes: list[int]) -> None:
    table, steps = of_sizes(examples, sizes), walked(examples, sizes)
    assert [table.locate_step(step) for step in range(len(steps))] == [(epoch, number) for epoch, number, _, _ in steps]
    first = [next(at for at, item in enumerate(steps) if item[0] == epoch) for epoch in range(len(sizes))]
    assert [table.step_at(epoch) for epoch in range(len(sizes) + 1)] == [*first, len(steps)]
    assert [table.epoch_at(step) for step in [*first, len(steps)]] == [float(epoch) for epoch in range(len(sizes) + 1)]
    assert [table.batch_size_at(epoch) for epoch in range(len(sizes))] == sizes
    assert all(table.epoch_at(step) < table.epoch_at(step + 1) for step in range(len(steps)))
    assert table.batch_size_at(1000) == sizes[-1]


@settings(max_examples=100, deadline=None)
@given(*EXAMPLES_AND_SIZES, st.integers(1, 4), st.sampled_from([1, 4, 8]), st.integers(1, 40))
def test_every_example_comes_once_in_each_epoch_on_any_number_of_ranks(
    examples: int, sizes: list[int], ranks: int, block: int, micro: int
) -> None:
    table = of_sizes(examples, sizes)
    shares = [
        BatchSchedules(BatchSchedule(np.arange(examples), 5, sizes[0], micro, World(rank, ranks), block), table)
        for rank in range(ranks)
    ]
    for epoch in range(len(sizes)):
        seen: list[int] = []
        for batch in range(table.steps_in_epoch(epoch)):
            schedules = [share.get_schedule(epoch) for share in shares]
            positions = [p for s in schedules for start, end in s.get_step_ranges(batch) for p in range(start, end)]
            assert len(positions) == schedules[0].count_examples(batch)
            seen += schedules[0].compute_order(epoch)[positions].tolist()
        assert sorted(seen) == list(range(examples))


def test_epochs_of_one_size_have_the_numbers_of_a_division() -> None:
    table = EpochSchedule.constant(100, 32)
    assert (table.steps_in_epoch(5), table.locate_step(9), table.epoch_at(9), table.step_at(0.6)) == (
        4,
        (2, 1),
        9 / 4,
        round(2.4),
    )


@pytest.mark.parametrize(("every", "due"), [("1ep", [4, 6, 7, 8]), ("2ep", [6, 8]), ("0.5ep", [2, 4, 5, 6, 7, 8])])
def test_what_is_done_every_epoch_is_done_where_epochs_end(every: str, due: list[int]) -> None:
    # 40 examples in steps of 10, 20, 40, 40: epochs of 4, 2, 1 and 1 steps; half of one step is rounded to none.
    progress = Progress(Duration(4, "ep"), EpochSchedule(40, ((0, 10), (1, 20), (2, 40))))
    assert progress.total_steps == 8
    done: list[int] = []
    cadence = Cadence([make_event(done.append, Duration.parse(every), progress)], last_step=10**9)
    for step in range(1, 9):
        for run in cadence.get_due(step):
            run(step)
    assert done == due


def test_moments_count_epochs_as_they_are_cut() -> None:
    progress = Progress(Duration(3, "ep"), EpochSchedule(40, ((0, 10), (1, 20))))
    assert [progress.get_step_info(step) for step in (0, 1, 4, 5, 6)] == [
        (0, 0.0, 0.0),
        (1, 0.25, 1 / 8),
        (4, 1.0, 4 / 8),
        (5, 1.5, 5 / 8),
        (6, 2.0, 6 / 8),
    ]


def test_two_timetables_agree_up_to_the_step_where_their_sizes_part() -> None:
    one, other = EpochSchedule(40, ((0, 10), (2, 20))), EpochSchedule(40, ((0, 10), (3, 20)))
    assert [one.is_equal_until(other, steps) for steps in (0, 8, 9)] == [True, True, False]


def test_the_batch_size_that_keeps_the_smallest_batch_large_enough() -> None:
    sizes = BatchSizeSchedule(EpochSchedule(100, ((0, 32), (1, 8))), 32, min_factor=0.25, max_factor=1.0)
    assert (sizes.smallest, sizes.largest) == (8, 32)
    assert sizes.suggest_at_least(25).startswith("use train.batch_size=100 or more, or")
    # 104 examples are more than there are.
    assert sizes.suggest_at_least(26) == "leave batch_size out of sched.applies_to"
    assert (
        BatchSizeSchedule(EpochSchedule.constant(100, 32), 32).suggest_at_least(40) == "use train.batch_size=40 or more"
    )


def test_an_epoch_can_leave_out_its_short_step() -> None:
    table = EpochSchedule(40, ((0, 12), (2, 30)), drop_last=True)
    assert [table.steps_in_epoch(epoch) for epoch in range(4)] == [3, 3, 1, 1]
    assert table.locate_step(7) == (3, 0)
    assert [table.count_last_examples(size) for size in table.sizes] == [0, 0]
    assert EpochSchedule(40, ((0, 12),)).count_last_examples(12) == 4


def test_leaving_out_the_short_step_cuts_the_first_whole_steps_alike() -> None:
    whole, dropped = EpochSchedule.constant(40, 12), EpochSchedule.constant(40, 12, drop_last=True)
    assert [whole.is_equal_until(dropped, steps) for steps in (0, 3, 4)] == [True, True, False]
