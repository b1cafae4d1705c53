"""data.sampler=balanced: equally many examples of each class, keyed, the same on every layout."""

from __future__ import annotations

import numpy as np

from dnntrain.input.sampler import BatchSchedule
from dnntrain.utils.world import World

CLASSES = np.array([0] * 80 + [1] * 15 + [2] * 5)


def make(rank: int = 0, ranks: int = 1) -> BatchSchedule:
    return BatchSchedule(np.arange(100), 5, 16, 16, World(rank, ranks), 8, classes=CLASSES)


def test_each_class_has_a_third_of_the_epoch() -> None:
    for epoch in range(3):
        order = make().compute_order(epoch)
        assert len(order) == 100
        assert np.bincount(CLASSES[order]).tolist() == [34, 33, 33]


def test_examples_of_a_class_come_equally_often_over_epochs() -> None:
    counts = np.bincount(np.concatenate([make().compute_order(epoch) for epoch in range(5)]), minlength=100)
    assert counts[:80].min() >= 2
    assert counts[:80].max() <= 3
    assert counts[95:].tolist() == [33] * 5


def test_the_order_is_keyed_and_changes_with_the_epoch() -> None:
    assert (make().compute_order(1) == make(1, 2).compute_order(1)).all()
    assert (make().compute_order(1) != make().compute_order(2)).any()


def test_repeated_examples_have_keys_of_their_own() -> None:
    position = np.arange(16)
    assert make().compute_copies(position).tolist() == position.tolist()  # type: ignore[union-attr]
