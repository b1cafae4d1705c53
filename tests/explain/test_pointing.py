"""The pointing game, the importance of columns and the plane of features, by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dnntrain.explain.embedding import find_neighbors, match_examples, project_features
from dnntrain.explain.permutation import group_columns
from dnntrain.explain.pointing import choose_source, find_hits, widen_masks
from dnntrain.inference.evaluate_run import DataSplit
from dnntrain.protocols import Column, ColumnKind, InputSpec


def test_a_hit_is_the_largest_value_inside_the_mask() -> None:
    maps = torch.zeros(3, 4, 4)
    maps[0, 1, 1], maps[1, 3, 3] = 1.0, 1.0
    inside = torch.zeros(3, 4, 4, dtype=torch.bool)
    inside[:, :2, :2] = True
    assert find_hits(maps, inside).tolist() == [1.0, 0.0, 0.25]


def test_a_margin_widens_a_mask_on_all_sides() -> None:
    masks = torch.zeros(1, 5, 5, dtype=torch.bool)
    masks[0, 2, 2] = True
    assert widen_masks(masks, 1)[0].int().sum(1).tolist() == [0, 3, 3, 3, 0]


def test_the_plane_is_that_of_the_principal_axes() -> None:
    angle = torch.linspace(0, 6.28, 100)
    features = torch.stack([10 * angle.cos(), 3 * angle.sin(), 0.01 * angle], 1)
    points, shares = project_features(features)
    assert shares[0] == pytest.approx(100 / 109, abs=0.01)
    assert float(points[:, 0].abs().max()) == pytest.approx(10, abs=0.3)
    again, _ = project_features(-features @ torch.diag(torch.tensor([-1.0, 1.0, 1.0])))
    assert points.shape == again.shape == (100, 2)


def test_one_feature_has_a_second_axis_of_zeros() -> None:
    points, shares = project_features(torch.arange(5.0)[:, None])
    assert points[:, 1].tolist() == [0.0] * 5
    assert shares == pytest.approx((1.0, 0.0))


def test_neighbors_are_the_nearest_by_angle() -> None:
    others = torch.tensor([[1.0, 0.0], [0.0, 5.0], [1.0, 1.0]])
    assert find_neighbors(torch.tensor([[10.0, 1.0]]), others, 2).tolist() == [[0, 2]]


def test_an_example_is_no_neighbor_of_itself() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 5.0], [1.0, 1.0]])
    source, numbers = object(), np.array([7, 8, 9])
    training = DataSplit("train", None, ((source, numbers),))  # type: ignore[arg-type]
    is_same = match_examples(training, np.array([9, 7, -1]), training)
    assert is_same.tolist() == [[False, False, True], [True, False, False], [False, False, False]]
    chosen = features[[2, 0, 0]]
    assert find_neighbors(chosen, features, 1, is_same)[:, 0].tolist() == [0, 2, 0]
    assert find_neighbors(chosen, features, 5, is_same).shape == (3, 2)
    other = DataSplit("test", None, ((object(), numbers),))  # type: ignore[arg-type]
    assert not match_examples(other, numbers, training).any()


def test_a_number_and_its_mark_are_one_column() -> None:
    columns = (Column("age", ColumnKind.NUMBER), Column("city", ColumnKind.CATEGORY, ("a",)))
    columns += (Column("age", ColumnKind.IS_MISSING),)
    inputs = InputSpec((3,), (0.0,) * 3, (1.0,) * 3, columns)
    assert group_columns(inputs) == {"age": [0, 2], "city": [1]}


def test_the_masks_of_a_fold_are_those_of_training_examples() -> None:
    data = SimpleNamespace(train=object(), test=object())
    masks = SimpleNamespace(train="masks of training", test="masks of test")
    fold = DataSplit("test", data, ((data.train, np.arange(3)),))  # type: ignore[arg-type]
    assert choose_source(fold, masks) == "masks of training"  # type: ignore[arg-type]
    assert choose_source(replace(fold, parts=((data.test, np.arange(3)),)), masks) == "masks of test"  # type: ignore[arg-type]
