"""Masks follow their pictures through every augmentation, in both pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from byte_images import KEY
from data_files import assert_same, epoch_of, pipeline, random_set
from stand_ins import class_spec, context
from torch import Tensor
from torch.nn.functional import max_pool2d

from dnntrain.choices.augment._image_ops import AugmentPolicy, make_operations
from dnntrain.choices.augment.color_jitter import ColorJitter
from dnntrain.choices.augment.cutmix import Cutmix
from dnntrain.choices.augment.perspective import Perspective
from dnntrain.choices.augment.randaugment import RandAugment
from dnntrain.choices.augment.rotation import Rotation
from dnntrain.choices.augment.trivial_augment import TrivialAugment
from dnntrain.choices.augment.vertical_flip import VerticalFlip
from dnntrain.errors import ConfigError
from dnntrain.input.augment import Augmentation
from dnntrain.input.options import ImageData
from dnntrain.input.source import ArraySource, DataSet
from dnntrain.protocols import AugmentChoice, Batch, Hooks, ImageTransform, MaskTransform, TargetKind, TargetSpec
from dnntrain.training.components import _check_masks

#: A pixel of class k has the value 40 k; class 0 does not occur, so that black is outside of the picture.
STEP = 40
SIZE = 24


class Painted(ArraySource):
    """Pictures whose pixels show their class."""

    def __init__(self, masks: Tensor, channels: int) -> None:
        super().__init__((masks * STEP)[:, None].repeat(1, channels, 1, 1), np.zeros(len(masks), np.int64), "painted")
        self.masks = masks

    def read_mask(self, index: int) -> Tensor:
        return self.masks[index]

    def get_resident_masks(self) -> Tensor:
        return self.masks


def make_masks(count: int) -> Tensor:
    """Return masks of rectangles of the classes 1 to 5."""
    generator = np.random.default_rng(0)
    masks = np.ones((count, SIZE, SIZE), dtype=np.uint8)
    for mask in masks:
        for label in range(2, 6):
            top, left = generator.integers(0, SIZE - 6, 2)
            mask[top : top + generator.integers(5, 12), left : left + generator.integers(5, 12)] = label
    return torch.from_numpy(masks)


def make_set(count: int = 40, channels: int = 3) -> DataSet:
    source = Painted(make_masks(count), channels)
    dataset = random_set(count, channels, SIZE)
    return replace(dataset, train=source, test=source, targets=TargetSpec(tuple("abcdef"), TargetKind.MASK))


def get_transforms(choice: AugmentChoice) -> tuple[ImageTransform, MaskTransform]:
    hooks = choice.build(replace(context(), spec=class_spec(input_shape=(3, SIZE, SIZE))))
    ((image,), (mask,)) = hooks.image_transforms, hooks.mask_transforms
    return image, mask


def move(pair: tuple[ImageTransform, MaskTransform], count: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    """Return the masks, and pictures [n, h, w] and masks after the transforms."""
    masks, number = make_masks(count), np.arange(count)
    pictures = (masks * STEP)[:, None].repeat(1, 3, 1, 1)
    moved = pair[0](pictures, number, KEY)
    assert torch.equal(moved[:, 0], moved[:, 1])
    return masks, moved[:, 0], pair[1](masks[:, None], number, KEY)[:, 0]


def assert_shows(pictures: Tensor, masks: Tensor) -> None:
    """The mask of a picture is what the picture shows, and 255 where it is black."""
    assert torch.equal(masks == 255, pictures == 0)
    assert torch.equal(masks[masks < 255] * STEP, pictures[masks < 255])


MOVING = AugmentPolicy(
    "randaugment",
    tuple(
        operation
        for operation in make_operations(shear=0.3, across=9.0, down=9.0, degrees=30.0, enhance=0.9, fewest_bits=4)
        if operation.name in ("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
    ),
    2,
    None,
)


@pytest.mark.parametrize("pair", [get_transforms(VerticalFlip()), (MOVING, MOVING.move_masks)], ids=["flip", "policy"])
def test_a_mask_is_what_the_picture_shows_after_nearest_sampling(pair: tuple[ImageTransform, MaskTransform]) -> None:
    before, pictures, masks = move(pair)
    assert not torch.equal(masks, before)
    assert_shows(pictures, masks)


@pytest.mark.parametrize("choice", [Rotation(max_degrees=40), Perspective(distortion=0.6, probability=0.9)])
def test_a_mask_is_what_the_picture_shows_within_areas_of_one_class(choice: AugmentChoice) -> None:
    before, pictures, masks = move(get_transforms(choice))
    assert not torch.equal(masks, before)
    values = masks.float()[:, None]
    is_inner = (max_pool2d(values, 3, 1, 1) == values) & (-max_pool2d(-values, 3, 1, 1) == values)
    inner = is_inner[:, 0].clone()
    inner[:, [0, -1]], inner[:, :, [0, -1]] = False, False  # outside of the frame may be another class
    assert inner.float().mean() > 0.4
    assert_shows(pictures[inner], masks[inner])
    # Bilinear values between two classes are near those of one of them: never outside of their range.
    assert (masks == 255).any()


def test_every_operation_of_the_policies_has_the_draws_of_the_images() -> None:
    """Of the pictures with colors changed as well, black borders are where masks do not count."""
    for choice in (RandAugment(magnitude=12), TrivialAugment()):
        _, image_to_mask = get_transforms(choice)
        masks = make_masks(40)
        moved = image_to_mask(masks[:, None], np.arange(40), KEY)[:, 0]
        assert (moved == 255).any()
        assert set(moved.unique().tolist()) <= {1, 2, 3, 4, 5, 255}
        assert any(torch.equal(one, other) for one, other in zip(moved, masks, strict=True))


def test_colors_leave_masks_alone() -> None:
    before, pictures, masks = move(get_transforms(ColorJitter(brightness=0.5, contrast=0, saturation=0, hue=0)))
    assert torch.equal(before, masks)
    assert not torch.equal(pictures, before * STEP)


def unnormalize(batch: Batch, dataset: DataSet) -> Tensor:
    """Return the bytes of the first channel."""
    return (255 * (batch.inputs[:, 0] * dataset.inputs.std[0] + dataset.inputs.mean[0])).round().to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_both_pipelines_move_masks_with_crop_flip_and_transforms(channels: int) -> None:
    dataset = make_set(channels=channels)
    arguments = {
        "augmentation": Augmentation(3, 0.5),
        "image_transforms": (MOVING, get_transforms(VerticalFlip())[0]),
        "mask_transforms": (MOVING.move_masks, get_transforms(VerticalFlip())[1]),
        "augment_copies": 2,
    }
    expected = epoch_of(pipeline(dataset, ImageData(), **arguments))
    streaming = ImageData(pipeline="streaming", num_workers=0)
    assert_same(epoch_of(pipeline(dataset, streaming, **arguments)), expected)
    for batch in expected:
        assert (batch.targets.dtype, batch.targets.shape[1:]) == (torch.int64, (SIZE, SIZE))
        assert_shows(unnormalize(batch, dataset), batch.targets.to(torch.uint8))


@pytest.mark.slow
def test_workers_send_masks() -> None:
    dataset = make_set()
    streaming = ImageData(pipeline="streaming", num_workers=2)
    expected = epoch_of(pipeline(dataset, ImageData(), augmentation=Augmentation(3, 0.5)))
    assert_same(epoch_of(pipeline(dataset, streaming, augmentation=Augmentation(3, 0.5))), expected)


def test_cutmix_pastes_the_box_of_the_mask() -> None:
    masks = make_masks(16)
    base = context()
    spec = replace(class_spec(input_shape=(1, SIZE, SIZE)), targets=TargetSpec(tuple("abcdef"), TargetKind.MASK))
    hooks = Cutmix(probability=1.0).build(replace(base, spec=spec))
    batch = Batch((masks * STEP)[:, None].float(), masks.long(), np.arange(16), np.arange(16))
    mixed = hooks.batch_transforms[0].apply(batch, KEY)
    assert not torch.equal(mixed.targets, masks.long())
    assert torch.equal(mixed.inputs[:, 0], (mixed.targets * STEP).float())


def test_an_image_transform_that_says_nothing_of_masks_is_refused() -> None:
    def double(images: Tensor, number: np.ndarray, key: object) -> Tensor:
        return images

    transforms: Sequence[ImageTransform] = (double,)
    with pytest.raises(ConfigError, match=r"augment\.mine does not support masks"):
        _check_masks({"augment.mine": Hooks(image_transforms=tuple(transforms))})
