"""Feed training and evaluation from the resident or the streaming pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from dnntrain.errors import DataError
from dnntrain.input.augment import NO_AUGMENTATION, Augmentation
from dnntrain.input.decoded_cache import CachingSource
from dnntrain.input.normalize import make_normalizer
from dnntrain.input.resident import ResidentPipeline, is_on_device, make_gatherer
from dnntrain.input.sampler import BatchSchedule, BatchSchedules
from dnntrain.input.source import DataSet, Source
from dnntrain.protocols import (
    Batch,
    BatchTransform,
    DataChoice,
    ImageTransform,
    MaskTransform,
    PhaseMarker,
    StepBatch,
)
from dnntrain.utils.epochs import EpochSchedule
from dnntrain.utils.rng import Index, Key
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.input.reader import Reader
    from dnntrain.input.streaming import StreamingPipeline


class InputPipeline(Protocol):
    """The training examples, cut into optimizer steps.

    The uneven last batch of an epoch is trained on too, unless the timetable drops it. `steps_per_epoch` is the number of the
    first epoch, and of all epochs if the batch size is constant.
    """

    name: str
    steps_per_epoch: int

    def take(self, step: int) -> StepBatch:
        """Return the micro-batches of this rank in optimizer step `step`.

        Steps are counted from 0 over the whole run. Any step may be taken; consecutive ones are
        fast. The batch may be overwritten once the step after the next is taken. A rank gets no
        micro-batch in a step with fewer examples than ranks.
        """
        ...

    def get_skipped_examples(self) -> dict[str, str]:
        """Return the examples that could not be read so far, with the reason."""
        ...

    def mark_phases(self, mark: PhaseMarker) -> None:
        """Compute the parts of a batch that this process makes within `mark(name)` from now on."""
        ...

    def close(self) -> None:
        """End worker processes; the pipeline cannot be used afterwards."""
        ...


def build_pipeline(
    options: DataChoice,
    dataset: DataSet,
    indices: Index,
    *,
    seed: int,
    batch_size: int,
    micro_batch_size: int,
    world: World,
    device: str,
    channels_last: bool,
    transforms: Sequence[BatchTransform] = (),
    image_transforms: Sequence[ImageTransform] = (),
    mask_transforms: Sequence[MaskTransform] = (),
    augmentation: Augmentation = NO_AUGMENTATION,
    augment_copies: int = 1,
    kept_block_size: int = 1,
    joins_ranks: bool = False,
    timetable: EpochSchedule | None = None,
) -> InputPipeline:
    """Build the pipeline of `options.pipeline` over `indices` of the training split.

    Args:
        image_transforms, mask_transforms: change the augmented bytes of an image, and its mask.
        transforms: change the batch, in the order of their stages.
        kept_block_size, joins_ranks: see `BatchSchedule`.
        timetable: batch size of each epoch; without it every epoch has batches of `batch_size`.

    Raises DataError if `batch_size` is larger than the number of examples.
    """
    _check_batch_size(batch_size, len(indices))
    timetable = timetable or EpochSchedule.constant(len(indices), batch_size)
    schedule = BatchSchedule(
        indices,
        seed,
        batch_size,
        micro_batch_size,
        world,
        options.mix_block_size,
        augment_copies,
        kept_block_size,
        joins_ranks,
        timetable.drop_last,
        dataset.train.labels[indices] if options.sampler == "balanced" else None,
    )
    schedules, source = BatchSchedules(schedule, timetable), dataset.train
    normalize = make_normalizer(dataset.inputs, device, channels_last)

    def make_resident() -> ResidentPipeline:
        gather = make_gatherer(source, normalize, device, augmentation, image_transforms, mask_transforms)
        return ResidentPipeline(source, schedules, gather, transforms)

    if is_resident(options, source, device):
        return make_resident()
    from dnntrain.input.streaming import StreamingPipeline

    reader = _make_training_reader(options, source, indices, seed, augmentation, image_transforms, mask_transforms)
    streaming = StreamingPipeline(reader, schedules, normalize, options.num_workers, device, transforms)
    return _add_cache(streaming, source, make_resident, lambda: _can_gather(options, source, indices, device))


def _add_cache(
    streaming: StreamingPipeline,
    source: Source,
    make_resident: Callable[[], ResidentPipeline],
    can_gather: Callable[[], bool],
) -> InputPipeline:
    """Return a pipeline that gathers kept examples, if the source keeps what it decodes."""
    if not isinstance(source, CachingSource) or not source.has_cache:
        return streaming
    from dnntrain.input.cached import CachedPipeline

    return CachedPipeline(streaming, make_resident, can_gather)


def _make_training_reader(
    options: DataChoice,
    source: Source,
    indices: Index,
    seed: int,
    augmentation: Augmentation,
    image_transforms: Sequence[ImageTransform],
    mask_transforms: Sequence[MaskTransform],
) -> Reader:
    """Return the reader that decodes and augments the examples `indices` one by one."""
    from dnntrain.input.reader import Reader

    return Reader(
        source,
        augmentation,
        seed,
        options.on_error == "skip",
        candidates=indices,
        training=True,
        image_transforms=tuple(image_transforms),
        mask_transforms=tuple(mask_transforms),
    )


def _check_batch_size(batch_size: int, num_examples: int) -> None:
    if batch_size > num_examples:
        raise DataError(
            f"train.batch_size={batch_size} must be <= {num_examples}, the number of training examples",
            f"use train.batch_size={max(num_examples, 1)} or less, or a smaller data.val_fraction",
        )


def is_resident(options: DataChoice, source: Source, device: str) -> bool:
    """Return whether the whole source is kept on `device`.

    Raises DataError if `resident` is set and impossible.
    """
    if options.pipeline == "streaming":
        return False
    inputs = source.get_resident_inputs()
    if inputs is None:
        if options.pipeline == "resident":
            raise DataError(
                "data.pipeline=resident does not support images that are cropped or read again each time",
                "use data.pipeline=streaming, or data.random_resized_crop=false",
            )
        return False
    return _can_gather(options, source, np.arange(len(source)), device)


def _can_gather(options: DataChoice, source: Source, indices: Index, device: str) -> bool:
    """Return whether the inputs `indices` are in memory, and `device` has twice the room for images unless they must be there.

    A cache stays in the memory of the host, so that a GPU gets no data set in mid-run.
    """
    inputs = source.get_resident_inputs()
    if inputs is None:
        return device == "cpu" and isinstance(source, CachingSource) and source.has_cache and source.has_cached(indices)
    is_bound = options.pipeline == "resident" or inputs.ndim <= 2
    if is_bound or not device.startswith("cuda") or is_on_device(source, device):
        return True
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return inputs.nbytes * 2 < free_bytes


def read_evaluation_batches(
    options: DataChoice,
    dataset: DataSet,
    source: Source,
    indices: Index,
    *,
    batch_size: int,
    world: World,
    device: str,
    channels_last: bool,
) -> Iterator[Batch]:
    """Yield the examples `indices` of `source` in order, unaugmented.

    Each example comes exactly once over all ranks. `batch_size` is the size per rank. Unreadable
    examples are skipped with `data.on_error=skip`.
    """
    normalize = make_normalizer(dataset.inputs, device, channels_last)
    positions = np.arange(len(indices) * world.rank // world.size, len(indices) * (world.rank + 1) // world.size)
    position_chunks = [positions[start : start + batch_size] for start in range(0, len(positions), batch_size)]
    if not _can_gather(options, source, indices, device):
        from dnntrain.input.streaming import stream_batches

        yield from stream_batches(options, source, indices, position_chunks, normalize, device, world.size)
        return
    gather = make_gatherer(source, normalize, device)
    for positions_of_batch in position_chunks:
        positions_of_batch = (
            positions_of_batch[~np.isin(indices[positions_of_batch], list(source.failures))]
            if source.failures
            else positions_of_batch
        )
        if len(positions_of_batch):
            images, targets = gather(indices[positions_of_batch], Key(0))
            yield Batch(images, targets, indices[positions_of_batch], positions_of_batch)
