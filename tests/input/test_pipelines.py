"""Both pipelines give bitwise the same batches, for any number of workers, ranks, and from any step on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from data_files import assert_same, epoch_of, pipeline, random_set, refusal

from dnntrain.input import resident
from dnntrain.input.augment import Augmentation
from dnntrain.input.options import ImageData
from dnntrain.input.pipeline import read_evaluation_batches
from dnntrain.protocols import Batch, BatchStage, BatchTransform
from dnntrain.utils.rng import Key
from dnntrain.utils.world import World

AUGMENTATION = Augmentation(2, 0.5)
OPTIONS = ImageData()


@pytest.mark.sampled
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize(("channels", "channels_last"), [(1, True), (3, False), (3, True)])
def test_streaming_gives_the_batches_of_resident(workers: int, channels: int, channels_last: bool) -> None:
    dataset = random_set(channels=channels)
    streaming = replace(OPTIONS, pipeline="streaming", num_workers=workers)
    expected = epoch_of(pipeline(dataset, OPTIONS, augmentation=AUGMENTATION, channels_last=channels_last))
    found = epoch_of(pipeline(dataset, streaming, augmentation=AUGMENTATION, channels_last=channels_last))
    assert_same(found, expected)
    assert [batch.inputs.stride() for batch in found] == [batch.inputs.stride() for batch in expected]


@pytest.mark.parametrize("options", [OPTIONS, replace(OPTIONS, pipeline="streaming", num_workers=0)])
@pytest.mark.parametrize("ranks", [2, 3])
def test_the_ranks_together_give_the_batches_of_one_process(options: ImageData, ranks: int) -> None:
    dataset = random_set()
    whole = pipeline(dataset, options, augmentation=AUGMENTATION)
    parts = [
        pipeline(dataset, options, augmentation=AUGMENTATION, world=World(rank, ranks), micro_batch_size=8)
        for rank in range(ranks)
    ]
    for step in range(whole.steps_per_epoch):
        expected = whole.take(step)
        taken = [part.take(step) for part in parts]
        assert {part.examples for part in taken} == {expected.examples}
        micro = [batch for part in taken for batch in part.micro_batches]
        assert torch.equal(torch.cat([batch.inputs for batch in micro]), expected.micro_batches[0].inputs)
        assert torch.equal(torch.cat([batch.targets for batch in micro]), expected.micro_batches[0].targets)
        assert (
            np.concatenate([batch.position for batch in micro]).tolist() == expected.micro_batches[0].position.tolist()
        )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [None, 0, 2])
def test_any_step_can_be_taken_without_those_before(workers: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "CHUNK_BYTES", 3 * 16 * 81 * 4)  # three steps
    options = OPTIONS if workers is None else replace(OPTIONS, pipeline="streaming", num_workers=workers)
    dataset = random_set()
    whole = epoch_of(pipeline(dataset, options, augmentation=AUGMENTATION), epoch=1)
    feed = pipeline(dataset, options, augmentation=AUGMENTATION)
    for step in (6, 7, 5, 5):
        assert_same(feed.take(step).micro_batches, [whole[step - feed.steps_per_epoch]])
    feed.close()


@pytest.mark.parametrize("options", [ImageData(), ImageData(pipeline="streaming", num_workers=0)])
def test_an_epoch_holds_every_example_once_in_a_new_order(options: ImageData) -> None:
    dataset = random_set()
    orders = [
        np.concatenate([batch.index for batch in epoch_of(pipeline(dataset, options), epoch)]) for epoch in (0, 1)
    ]
    assert [sorted(order) for order in orders] == [list(range(61))] * 2
    assert orders[0].tolist() != orders[1].tolist()


def test_the_uneven_last_batch_is_trained_on_with_its_own_count() -> None:
    feed = pipeline(random_set(), ImageData())
    assert feed.steps_per_epoch == 4
    assert [feed.take(step).examples for step in range(5)] == [16, 16, 16, 13, 16]


def test_pixels_are_normalised_by_channel() -> None:
    dataset = random_set(channels=3)
    batch = pipeline(dataset, ImageData()).take(0).micro_batches[0]
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)
        for values in (dataset.inputs.mean, dataset.inputs.std)
    )
    expected = (dataset.train.images[batch.index] / 255.0 - mean) / std
    torch.testing.assert_close(batch.inputs.double(), expected, atol=2e-6, rtol=1e-5)
    assert batch.targets.tolist() == dataset.train.labels[batch.index].tolist()


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_shows_in_the_strides(channels: int) -> None:
    dataset = random_set(channels=channels)
    last = pipeline(dataset, ImageData(), channels_last=True).take(0).micro_batches[0].inputs
    first = pipeline(dataset, ImageData()).take(0).micro_batches[0].inputs
    assert last.stride() == (81 * channels, 1, 9 * channels, channels)
    assert first.stride() == (81 * channels, 81, 9, 1)
    assert torch.equal(last, first)


def test_no_float_copy_of_the_data_set_is_held() -> None:
    dataset = random_set(3000)
    feed = pipeline(dataset, ImageData())
    gather = feed._gather  # type: ignore[attr-defined]
    assert gather.rows.data_ptr() == dataset.train.images.data_ptr()
    assert gather.rows.dtype == torch.uint8


def test_a_batch_outlives_the_taking_of_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "CHUNK_BYTES", 1)  # each step is a chunk of its own
    feed = pipeline(random_set(), ImageData())
    batch = feed.take(0).micro_batches[0]
    before = batch.inputs.clone()
    feed.take(1)
    assert torch.equal(batch.inputs, before)


@pytest.mark.parametrize("batch_size", [16, 12])
@pytest.mark.parametrize("options", [ImageData(), ImageData(pipeline="streaming", num_workers=0)])
def test_transforms_are_keyed_and_see_whole_pair_blocks(options: ImageData, batch_size: int) -> None:
    seen: list[Batch] = []

    def add_noise(batch: Batch, key: Key) -> Batch:
        seen.append(batch)
        noise = torch.from_numpy(key.with_stream("noise").uniform(batch.index)).float()
        batch.inputs = batch.inputs + noise[:, None, None, None]
        return batch

    dataset = random_set()
    transforms = (BatchTransform(BatchStage.AUGMENT, add_noise),)
    plain = epoch_of(pipeline(dataset, options, batch_size=batch_size), epoch=1)
    noisy = epoch_of(pipeline(dataset, options, batch_size=batch_size, transforms=transforms), epoch=1)
    for one, other in zip(plain, noisy, strict=True):
        noise = torch.from_numpy(Key(3, "noise", 1).uniform(one.index)).float()
        assert torch.equal(one.inputs + noise[:, None, None, None], other.inputs)
    for batch in seen if batch_size % 8 == 0 else ():
        assert batch.position[0] % 8 == 0
    assert all(len(batch) <= batch_size for batch in seen) or batch_size % 8 == 0


@pytest.mark.parametrize("ranks", [1, 3])
def test_evaluation_sees_each_example_once_and_unaugmented(ranks: int) -> None:
    dataset = random_set()
    indices = np.arange(5, 60)
    seen = []
    for rank in range(ranks):
        for batch in read_evaluation_batches(
            OPTIONS,
            dataset,
            dataset.test,
            indices,
            batch_size=10,
            world=World(rank, ranks),
            device="cpu",
            channels_last=False,
        ):
            assert len(batch) <= 10
            mean, std = dataset.inputs.mean[0], dataset.inputs.std[0]
            expected = (dataset.test.images[batch.index].double() / 255 - mean) / std
            torch.testing.assert_close(batch.inputs.double(), expected, atol=2e-6, rtol=1e-5)
            seen += batch.index.tolist()
    assert seen == indices.tolist()


def test_a_batch_larger_than_the_training_part_is_refused_with_both_numbers() -> None:
    error = refusal(lambda: pipeline(random_set(), ImageData(), batch_size=62), 62, 61)
    assert "train.batch_size=61" in error.hint


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_run_with_a_hint() -> None:
    import multiprocessing

    feed = pipeline(random_set(), ImageData(pipeline="streaming", num_workers=1))
    feed.take(0)
    multiprocessing.active_children()[0].kill()
    error = refusal(lambda: [feed.take(step) for step in range(1, 20)], "died")
    assert "data.num_workers" in error.hint


def test_worker_processes_end_with_the_pipeline() -> None:
    import multiprocessing

    feed = pipeline(random_set(), ImageData(pipeline="streaming", num_workers=2))
    feed.take(0)
    assert len(multiprocessing.active_children()) == 2
    feed.close()
    assert not multiprocessing.active_children()
