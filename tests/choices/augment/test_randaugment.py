"""RandAugment: torchvision's operations and magnitudes, choices and an image that comes out the same in any company."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from short_runs import trained
from stand_ins import class_spec, context
from torchvision.transforms.v2 import InterpolationMode, RandAugment, TrivialAugmentWide

from dnntrain.choices.augment import randaugment, trivial_augment
from dnntrain.choices.augment._image_ops import BINS, AugmentPolicy, apply_operation
from dnntrain.errors import ConfigError
from dnntrain.utils.rng import Key

KEY = Key(0, "", 3)


def policy_of(name: str, size: int = 32) -> AugmentPolicy:
    made = {"randaugment": randaugment.RandAugment, "trivial_augment": trivial_augment.TrivialAugment}[name]
    (policy,) = made().build(replace(context(), spec=class_spec(input_shape=(3, size, size)))).image_transforms
    assert isinstance(policy, AugmentPolicy)
    return policy


def images_of(count: int = 40, channels: int = 3, size: int = 17) -> torch.Tensor:
    generator = np.random.default_rng(1)
    return torch.from_numpy(generator.integers(0, 256, (count, channels, size, size), dtype=np.uint8))


@pytest.mark.parametrize(("name", "reference"), [("randaugment", RandAugment), ("trivial_augment", TrivialAugmentWide)])
def test_operations_and_magnitudes_are_those_of_torchvision(name: str, reference: type) -> None:
    size = 32
    found = {operation.name: operation for operation in policy_of(name, size).operations}
    assert list(found) == list(reference._AUGMENTATION_SPACE)
    images = images_of(2, size=size)
    for title, (magnitudes_of, signed) in reference._AUGMENTATION_SPACE.items():
        magnitudes = magnitudes_of(BINS, size, size)
        assert found[title].is_signed == signed
        assert list(found[title].magnitudes) == ([] if magnitudes is None else [float(each) for each in magnitudes])
        for magnitude in [0.0] if magnitudes is None else [float(magnitudes[at]) for at in (0, 9, 30)]:
            for sign in (1, -1) if signed else (1,):
                expected = reference()._apply_image_or_video_transform(
                    images, title, sign * magnitude, interpolation=InterpolationMode.NEAREST, fill={torch.Tensor: None}
                )
                result = images if title == "Identity" else apply_operation(images, title, sign * magnitude)
                assert torch.equal(result, expected), (title, magnitude)


def test_the_number_of_operations_and_their_strength_are_knobs() -> None:
    knobs = randaugment.RandAugment(operations=3, magnitude=21)
    (policy,) = knobs.build(context()).image_transforms
    assert isinstance(policy, AugmentPolicy)
    choices = policy.draw_choices(np.arange(14_000), KEY)
    assert len(choices) == 3
    for which, bins, negated in choices:
        assert (bins == 21).all()
        assert 850 < np.bincount(which, minlength=14).min() <= np.bincount(which).max() < 1150
        assert 0.48 < negated.mean() < 0.52


def test_an_image_goes_through_its_operations_in_turn() -> None:
    policy, images = policy_of("randaugment", 17), images_of(5)
    expected = list(images)
    for which, bins, negated in policy.draw_choices(np.arange(5), KEY):
        for row in range(5):
            operation = policy.operations[which[row]]
            magnitude = operation.magnitudes[bins[row]] if operation.magnitudes else 0.0
            if operation.name != "Identity":
                sign = -1 if operation.is_signed and negated[row] else 1
                expected[row] = apply_operation(expected[row][None], operation.name, sign * magnitude)[0]
    before = images.clone()
    assert torch.equal(policy(images, np.arange(5), KEY), torch.stack(expected))
    assert torch.equal(images, before)


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["randaugment", "trivial_augment"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_comes_out_the_same_alone_and_among_others(name: str, channels: int) -> None:
    policy, images = policy_of(name, 17), images_of(200, channels)
    rows = images.contiguous(memory_format=torch.channels_last)
    whole = policy(rows, np.arange(200), KEY)
    for number in range(200):
        assert torch.equal(policy(images[number : number + 1], np.array([number]), KEY)[0], whole[number])


def test_images_of_two_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 channels"):
        randaugment.RandAugment().build(replace(context(), spec=class_spec(input_shape=(2, 8, 8))))


def test_both_policies_together_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"augment\.randaugment and augment\.trivial_augment"):
        trained(tmp_path / "run", "reg=[]", "augment=[crop,flip,randaugment,trivial_augment]")
