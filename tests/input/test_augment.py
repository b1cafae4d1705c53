"""Crop and flip: what they do to pixels, and that both implementations do the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from dnntrain.input.augment import Augmentation, RowAugmenter, augment_image
from dnntrain.utils.rng import Index, Key

KEY = Key(7, "", 3)


def images(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    values = np.random.default_rng(0).integers(1, 256, (count, channels, height, width), dtype=np.uint8)
    return torch.from_numpy(values)


def augmented(pictures: torch.Tensor, augmentation: Augmentation, index: Index) -> torch.Tensor:
    count, channels, height, width = pictures.shape
    rows = pictures.permute(0, 2, 3, 1).reshape(count, -1)
    result = RowAugmenter(augmentation, height, width, channels, "cpu")(rows, index, KEY)
    return result.view(count, height, width, channels).permute(0, 3, 1, 2)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("padding", "flip"), [(0, 0.5), (2, 0.0), (3, 0.5), (9, 0.5)])
def test_rows_are_mirrored_padded_and_cropped_as_chosen(channels: int, padding: int, flip: float) -> None:
    pictures, index = images(50, channels, 6, 7), np.arange(100, 150)
    augmentation = Augmentation(padding, flip)
    result = augmented(pictures, augmentation, index)
    choices = zip(pictures, *augmentation.draw_crop_and_flip(index, KEY), strict=True)
    for row, (picture, top, left, mirrored) in enumerate(choices):
        whole = pad(picture.flip(2) if mirrored else picture, (padding,) * 4)
        assert torch.equal(result[row], whole[:, top : top + 6, left : left + 7])


@pytest.mark.parametrize(("padding", "flip"), [(0, 0.5), (2, 0.0), (3, 0.5)])
def test_torchvision_gives_the_same_bytes(padding: int, flip: float) -> None:
    pictures, index = images(20, 3, 8, 8), np.arange(20)
    augmentation = Augmentation(padding, flip)
    one_by_one = [augment_image(pictures[i], augmentation, i, KEY) for i in index.tolist()]
    assert torch.equal(augmented(pictures, augmentation, index), torch.stack(one_by_one))


def test_choices_depend_on_the_example_not_on_its_neighbours() -> None:
    augmentation = Augmentation(4, 0.5)
    together = augmentation.draw_crop_and_flip(np.arange(100), KEY)
    alone = augmentation.draw_crop_and_flip(np.array([42]), KEY)
    assert [column[42] for column in together] == [column[0] for column in alone]


def test_choices_are_spread_evenly() -> None:
    top, left, mirrored = Augmentation(4, 0.5).draw_crop_and_flip(np.arange(9000), KEY)
    for offsets in (top, left):
        assert np.abs(np.bincount(offsets, minlength=9) - 1000).max() < 150
    assert abs(mirrored.mean() - 0.5) < 0.03


def test_nothing_is_done_where_nothing_is_asked_for() -> None:
    assert not Augmentation(0, False)
    assert Augmentation(1, False)
    assert Augmentation(0, True)
