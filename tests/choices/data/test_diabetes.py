"""data=diabetes: scikit-learn's values, with a fixed test split."""

from __future__ import annotations

import numpy as np

from dnntrain.choices.data.diabetes import FILE, Diabetes
from dnntrain.input.table_file import read_table


def test_the_values_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_diabetes

    original = load_diabetes(scaled=False)
    table = read_table(FILE)
    assert table.names == [*original.feature_names, "progression"]
    assert np.array_equal(np.stack([table.columns[name] for name in original.feature_names], axis=1), original.data)
    assert np.array_equal(table.columns["progression"], original.target)


def test_the_split_is_fixed_and_disjoint() -> None:
    dataset = Diabetes().build()
    assert (len(dataset.train), len(dataset.test)) == (361, 81)
    assert not set(dataset.train.keys) & set(dataset.test.keys)
    assert dataset.inputs.describe() == "9 numbers and 1 category"
    assert dataset.targets.names == ("progression",)


def test_targets_are_standardized_by_the_training_rows() -> None:
    dataset = Diabetes().build()
    assert abs(float(dataset.train.labels.mean())) < 1e-12
    assert abs(float(dataset.train.labels.std()) - 1) < 1e-12
