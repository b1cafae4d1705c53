"""What changes the bytes of training images does so alike in both pipelines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from data_files import assert_same, epoch_of, pipeline, random_set
from stand_ins import class_spec, context

from dnntrain.choices.augment.randaugment import RandAugment
from dnntrain.choices.augment.trivial_augment import TrivialAugment
from dnntrain.input.augment import Augmentation
from dnntrain.input.options import ImageData

CONTEXT = replace(context(), spec=class_spec(input_shape=(3, 9, 9)))
POLICIES = {
    "randaugment": RandAugment().build(CONTEXT).image_transforms[0],
    "trivial_augment": TrivialAugment().build(CONTEXT).image_transforms[0],
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["randaugment", "trivial_augment"])
@pytest.mark.parametrize("workers", [0, 1])
def test_both_pipelines_give_the_same_bytes_anew_in_each_epoch(name: str, workers: int) -> None:
    dataset, policy = random_set(channels=3), POLICIES[name]
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
    assert np.mean(same) < 0.1
