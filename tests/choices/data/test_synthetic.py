"""The made-up images: any size, keyed, and with something to learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dnntrain.choices.data.synthetic import Synthetic


def test_sizes_are_those_asked_for() -> None:
    dataset = Synthetic(train_size=70, test_size=33, num_classes=7, channels=3, image_size=12).build()
    assert (len(dataset.train), len(dataset.test), dataset.inputs.shape) == (70, 33, (3, 12, 12))
    assert np.bincount(dataset.train.labels).tolist() == [10] * 7


def test_the_same_seed_gives_the_same_data_and_another_seed_another() -> None:
    one, same, other = (Synthetic(train_size=50, data_seed=seed).build() for seed in (1, 1, 2))
    assert torch.equal(one.train.images, same.train.images)
    assert one.digest == same.digest
    assert not torch.equal(one.train.images, other.train.images)
    assert one.digest != other.digest


def test_an_image_does_not_depend_on_how_many_there_are() -> None:
    small, large = Synthetic(train_size=10).build(), Synthetic(train_size=3000).build()
    assert torch.equal(small.train.images, large.train.images[:10])


@pytest.mark.parametrize("noise", [0.1, 0.25])
def test_the_nearest_class_mean_finds_nearly_every_class(noise: float) -> None:
    dataset = Synthetic(noise=noise).build()
    train, test = (source.images.float().flatten(1) for source in (dataset.train, dataset.test))
    labels = torch.from_numpy(dataset.train.labels)
    means = torch.stack([train[labels == label].mean(0) for label in range(10)])
    found = torch.cdist(test, means).argmin(1)
    assert (found == torch.from_numpy(dataset.test.labels)).float().mean() > 0.95


def test_stated_mean_and_deviation_are_near_those_of_the_pixels() -> None:
    dataset = Synthetic().build()
    pixels = dataset.train.images.double() / 255
    assert abs(pixels.mean() - dataset.inputs.mean[0]) < 0.02
    assert abs(pixels.std() - dataset.inputs.std[0]) < 0.03
