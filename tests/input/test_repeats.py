"""Repeated examples: which ones a step holds, their copies augmented apart, alike in both pipelines and on every layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from data_files import assert_same, epoch_of, pipeline, random_set
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import class_spec, context

from dnntrain.choices.augment.random_erasing import RandomErasing
from dnntrain.choices.augment.trivial_augment import TrivialAugment
from dnntrain.input.augment import Augmentation
from dnntrain.input.options import ImageData
from dnntrain.input.sampler import BatchSchedule
from dnntrain.utils.rng import Key
from dnntrain.utils.world import World

AUGMENTATION = Augmentation(2, 0.5)
OPTIONS = ImageData()
STREAMING = replace(OPTIONS, pipeline="streaming", num_workers=0)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 200), st.integers(1, 12), st.integers(2, 4))
def test_a_step_holds_its_part_of_the_order_in_rounds_and_all_epochs_of_a_tour_hold_everything(
    count: int, distinct: int, repeats: int
) -> None:
    batch = distinct * repeats
    count += batch
    part = BatchSchedule(np.arange(count), 5, batch, batch, World(), 8, repeats)
    seen: list[int] = []
    for epoch in range(repeats, 2 * repeats):
        order = part.compute_order(epoch)
        assert len(order) == count
        copies = part.compute_copies(np.arange(count))
        assert copies is not None
        for step in range(part.steps_per_epoch):
            mine, copy = order[step * batch : (step + 1) * batch], copies[step * batch : (step + 1) * batch]
            first = mine[:distinct]
            assert len(set(first.tolist())) == len(first)
            assert mine.tolist() == np.tile(first, repeats)[: len(mine)].tolist()
            assert copy.tolist() == np.repeat(np.arange(repeats), distinct)[: len(mine)].tolist()
            seen += first.tolist()
    tour = np.arange(count)[np.argsort(Key(5, "shuffle", 1).bits(np.arange(count)))].tolist()
    assert seen[:count] == tour
    assert seen[count:] == tour[: len(seen) - count]


def test_without_repeats_order_and_numbers_are_unchanged() -> None:
    part = BatchSchedule(np.arange(40), 5, 16, 16, World(), 8)
    assert part.compute_order(3).tolist() == Key(5, "shuffle", 3).permutation(np.arange(40)).tolist()
    assert part.compute_copies(np.arange(40)) is None
    (batch, *_) = epoch_of(pipeline(random_set(), OPTIONS, augmentation=AUGMENTATION))
    assert batch.rng_index is batch.index


@pytest.mark.parametrize("options", [OPTIONS, STREAMING])
def test_copies_of_an_example_are_augmented_apart_by_every_method(options: ImageData) -> None:
    (policy,) = TrivialAugment().build(replace(context(), spec=class_spec(input_shape=(1, 9, 9)))).image_transforms
    erase = RandomErasing(probability=1.0).build(context()).batch_transforms
    for feed in (
        pipeline(random_set(), options, augment_copies=2, augmentation=AUGMENTATION),
        pipeline(random_set(), options, augment_copies=2, image_transforms=(policy,)),
        pipeline(random_set(), options, augment_copies=2, transforms=erase),
    ):
        batch = epoch_of(feed)[0]
        assert batch.index[:8].tolist() == batch.index[8:].tolist()
        assert batch.targets[:8].tolist() == batch.targets[8:].tolist()
        same = [torch.equal(one, other) for one, other in zip(batch.inputs[:8], batch.inputs[8:], strict=True)]
        assert sum(same) <= 2


def test_the_first_copy_is_the_image_that_would_be_there_without_copies() -> None:
    pictures = {
        int(number): image
        for batch in epoch_of(pipeline(random_set(), OPTIONS, augmentation=AUGMENTATION))
        for number, image in zip(batch.index, batch.inputs, strict=True)
    }
    batch = epoch_of(pipeline(random_set(), OPTIONS, augment_copies=2, augmentation=AUGMENTATION))[0]
    for row in range(8):
        assert torch.equal(batch.inputs[row], pictures[int(batch.index[row])])


@pytest.mark.parametrize("workers", [0, 1])
def test_streaming_gives_the_batches_of_resident(workers: int) -> None:
    dataset = random_set(channels=3)
    streaming = replace(STREAMING, num_workers=workers)
    (policy,) = TrivialAugment().build(replace(context(), spec=class_spec(input_shape=(3, 9, 9)))).image_transforms
    erase = RandomErasing(probability=0.5).build(context()).batch_transforms
    feeds = [
        pipeline(
            dataset, options, augment_copies=4, augmentation=AUGMENTATION, image_transforms=(policy,), transforms=erase
        )
        for options in (OPTIONS, streaming)
    ]
    assert_same(*[epoch_of(feed, 1) for feed in feeds])


@pytest.mark.parametrize("options", [OPTIONS, STREAMING])
def test_ranks_and_micro_batches_give_the_batches_of_one_process(options: ImageData) -> None:
    erase = RandomErasing(probability=0.5).build(context()).batch_transforms
    feeds = [
        pipeline(random_set(), options, augment_copies=2, augmentation=AUGMENTATION, transforms=erase),
        *(
            pipeline(
                random_set(),
                options,
                augment_copies=2,
                augmentation=AUGMENTATION,
                transforms=erase,
                world=World(rank, 3),
                micro_batch_size=3,
                batch_size=16,
            )
            for rank in range(3)
        ),
    ]
    whole, *parts = feeds
    for step in (0, 3):
        (expected,) = whole.take(step).micro_batches
        micro = [batch for part in parts for batch in part.take(step).micro_batches]
        assert torch.equal(torch.cat([batch.inputs for batch in micro]), expected.inputs)
        assert np.concatenate([batch.rng_index for batch in micro]).tolist() == expected.rng_index.tolist()
