"""The shipped data set is scikit-learn's, and its split stays what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_files import refusal

from dnntrain.choices.data import digits
from dnntrain.choices.data.digits import Digits


@pytest.mark.slow
def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    original = load_digits()
    dataset = Digits().build()
    ours = np.concatenate([source.images[:, 0].numpy() for source in (dataset.train, dataset.test)])
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    found = sorted(
        (int(label), (image * 16.0 / 255).round().tobytes()) for label, image in zip(labels, ours, strict=True)
    )
    wanted = sorted(
        (int(label), image.tobytes()) for label, image in zip(original.target, original.images, strict=True)
    )
    assert found == wanted


def test_split_is_fixed_stratified_and_disjoint() -> None:
    dataset = Digits().build()
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    assert dataset.digest == "c1377516f6aff526701ea6ce3da5d968fca42e3593382105296d87fa3432ccc1"
    shares = np.bincount(dataset.test.labels) / (np.bincount(dataset.test.labels) + np.bincount(dataset.train.labels))
    assert np.abs(shares - 0.2).max() < 0.01


def test_stated_mean_and_deviation_are_those_of_the_training_pixels() -> None:
    dataset = Digits().build()
    pixels = dataset.train.images.double() / 255
    assert abs(pixels.mean() - dataset.inputs.mean[0]) < 1e-3
    assert abs(pixels.std() - dataset.inputs.std[0]) < 1e-3


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch) -> None:
    damaged = tmp_path / "digits.npz"
    damaged.write_bytes(digits.FILE.read_bytes()[:1000])
    monkeypatch.setattr(digits, "FILE", damaged)
    refusal(Digits().build, damaged)


def test_an_array_of_objects_is_not_unpickled(tmp_path: Path, monkeypatch) -> None:
    marker = tmp_path / "marker"

    class Touch:
        def __reduce__(self):
            return Path.touch, (marker,)

    damaged = tmp_path / "digits.npz"
    np.savez(damaged, train_images=np.array([Touch()], dtype=object))
    monkeypatch.setattr(digits, "FILE", damaged)
    refusal(Digits().build, damaged)
    assert not marker.exists()
