"""Bytes of images, and the check that every image transform must pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from stand_ins import class_spec, context

from dnntrain.protocols import AugmentChoice
from dnntrain.utils.rng import Key

KEY = Key(0, "", 3)


def random_bytes(count: int, channels: int = 3, height: int = 17, width: int = 19) -> torch.Tensor:
    """Random bytes [count, channels, height, width], always the same."""
    generator = np.random.default_rng(1)
    return torch.from_numpy(generator.integers(0, 256, (count, channels, height, width), dtype=np.uint8))


def apply_choice(choice: AugmentChoice, images: torch.Tensor, number: np.ndarray, key: Key = KEY) -> torch.Tensor:
    """The images after the one image transform of `choice`."""
    spec = class_spec(input_shape=tuple(images.shape[1:]))
    (transform,) = choice.build(replace(context(), spec=spec)).image_transforms
    return transform(images, number, key)


def check_each_image_depends_on_itself_alone(choice: AugmentChoice, channels: int) -> None:
    """An image comes out the same alone and among others, in any memory layout, and anew in each epoch."""
    images = random_bytes(40, channels)
    before = images.clone()
    whole = apply_choice(choice, images.contiguous(memory_format=torch.channels_last), np.arange(40))
    assert torch.equal(images, before)
    assert (whole.dtype, whole.shape) == (torch.uint8, images.shape)
    assert not torch.equal(whole, images)
    for number in range(40):
        assert torch.equal(apply_choice(choice, images[number : number + 1], np.array([number]))[0], whole[number])
    assert not torch.equal(apply_choice(choice, images, np.arange(40), KEY.with_epoch(4)), whole)
