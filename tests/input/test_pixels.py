"""What changes the bytes of training images does so alike in both pipelines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from data_files import assert_same, epoch_of, pipeline, random_set
from stand_ins import class_spec, context

from dnntrain.choices.augment.color_jitter import ColorJitter
from dnntrain.choices.augment.perspective import Perspective
from dnntrain.choices.augment.randaugment import RandAugment
from dnntrain.choices.augment.rotation import Rotation
from dnntrain.choices.augment.trivial_augment import TrivialAugment
from dnntrain.choices.augment.vertical_flip import VerticalFlip
from dnntrain.input.augment import Augmentation
from dnntrain.input.options import ImageData

CONTEXT = replace(context(), spec=class_spec(input_shape=(3, 9, 9)))
CHOICES = {
    "randaugment": RandAugment(),
    "trivial_augment": TrivialAugment(),
    "rotation": Rotation(),
    "perspective": Perspective(probability=1.0),
    "color_jitter": ColorJitter(hue=0.1),
    "vertical_flip": VerticalFlip(),
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("workers", [0, 1])
def test_both_pipelines_give_the_same_bytes_anew_in_each_epoch(name: str, workers: int) -> None:
    dataset, policy = random_set(channels=3), CHOICES[name].build(CONTEXT).image_transforms[0]
    options = ImageData()
    streaming = ImageData(pipeline="streaming", num_workers=workers)
    kept = dataset.train.images.clone()
    resident = [
        epoch_of(pipeline(dataset, options, image_transforms=(policy,), augmentation=Augmentation(1, 0.5)), epoch)
        for epoch in (0, 1)
    ]
    assert_same(
        epoch_of(pipeline(dataset, streaming, image_transforms=(policy,), augmentation=Augmentation(1, 0.5)), 1),
        resident[1],
    )
    assert torch.equal(dataset.train.images, kept)
    pictures = [{int(i): x for b in epoch for i, x in zip(b.index, b.inputs, strict=True)} for epoch in resident]
    same = [torch.equal(picture, pictures[1][number]) for number, picture in pictures[0].items()]
    assert np.mean(same) < (0.6 if name == "vertical_flip" else 0.1)
