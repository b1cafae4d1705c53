"""Feeds training and evaluation: one interface over the resident and the streaming pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from dnntrain.errors import DataError
from dnntrain.input.augment import Augmentation
from dnntrain.input.normalize import Normaliser
from dnntrain.input.options import ImageData
from dnntrain.input.order import Epochs, Schedule
from dnntrain.input.resident import Gatherer, ResidentPipeline
from dnntrain.input.source import DataSet, Source
from dnntrain.protocols import Batch, BatchTransform, PixelTransform, StepBatch
from dnntrain.utils.epochs import Timetable
from dnntrain.utils.rng import Index, Key
from dnntrain.utils.world import World


class Pipeline(Protocol):
    """The training part, cut into optimizer steps. The uneven last batch of an epoch is trained on too.

    `steps_per_epoch`: of the first epoch; of all where the batch size is not scheduled.
    """

    name: str
    steps_per_epoch: int

    def take(self, step: int) -> StepBatch:
        """The micro-batches of this rank in optimizer step `step`, counted from 0 over the whole run.

        Any step may be asked for; consecutive ones are fast. The batch may be overwritten once the step after the next
        is taken. A rank gets no micro-batch in a step with fewer examples than ranks.
        """
        ...

    def skipped(self) -> dict[str, str]:
        """The examples that could not be read so far, with the reason."""
        ...

    def close(self) -> None:
        """Ends worker processes; the pipeline is not used afterwards."""
        ...


def build_pipeline(
    options: ImageData,
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
    pixels: Sequence[PixelTransform] = (),
    repeats: int = 1,
    timetable: Timetable | None = None,
) -> Pipeline:
    """The pipeline that `options.pipeline` names, over the examples `indices` of the training split.

    `pixels` change the augmented bytes of an image; `transforms` the batch, in the order of their stages. Without a `timetable` all
    epochs have batches of `batch_size`.

    Raises DataError where `batch_size` is more than there are examples.
    """
    if batch_size > len(indices):
        raise DataError(
            f"train.batch_size={batch_size} is more than the {len(indices)} examples of the training part",
            f"use train.batch_size={max(len(indices), 1)} or less, or a smaller data.val_fraction",
        )
    schedule = Schedule(indices, seed, batch_size, micro_batch_size, world, options.pair_block, repeats)
    epochs = Epochs(schedule, timetable or Timetable.constant(len(indices), batch_size))
    normalise = Normaliser(dataset.input_shape, dataset.mean, dataset.std, device, channels_last)
    augmentation = Augmentation(options.crop_padding, options.flip)
    source = dataset.train
    if is_resident(options, source, device):
        return ResidentPipeline(source, epochs, Gatherer(source, normalise, device, augmentation, pixels), transforms)
    from dnntrain.input.reader import Reader
    from dnntrain.input.streaming import StreamingPipeline

    reader = Reader(
        source, augmentation, seed, options.on_error == "skip", candidates=indices, training=True, pixels=tuple(pixels)
    )
    return StreamingPipeline(reader, epochs, normalise, options.workers, device, transforms)


def is_resident(options: ImageData, source: Source, device: str) -> bool:
    """True where the whole source is to be held on `device`. Raises DataError where it is asked for and cannot be."""
    if options.pipeline == "streaming":
        return False
    images = source.resident()
    if images is None:
        if options.pipeline == "resident":
            raise DataError(
                "data.pipeline=resident needs images of one size, and these are cropped or read anew each time",
                "use data.pipeline=streaming, or data.random_resized_crop=false",
            )
        return False
    if options.pipeline == "resident" or not device.startswith("cuda"):
        return True
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return images.nbytes * 2 < free_bytes


def evaluation_batches(
    options: ImageData,
    dataset: DataSet,
    source: Source,
    indices: Index,
    *,
    batch_size: int,
    world: World,
    device: str,
    channels_last: bool,
) -> Iterator[Batch]:
    """The examples `indices` of `source` in their order and unaugmented, each exactly once over all ranks.

    `batch_size` is that of one rank. Unreadable examples are left out under `data.on_error=skip`.
    """
    normalise = Normaliser(dataset.input_shape, dataset.mean, dataset.std, device, channels_last)
    positions = np.arange(len(indices) * world.rank // world.size, len(indices) * (world.rank + 1) // world.size)
    parts = [positions[start : start + batch_size] for start in range(0, len(positions), batch_size)]
    if source.resident() is None:
        from dnntrain.input.streaming import streamed

        yield from streamed(options, source, indices, parts, normalise, device, world.size)
        return
    gather = Gatherer(source, normalise, device)
    for part in parts:
        part = part[~np.isin(indices[part], list(source.failed))] if source.failed else part
        if len(part):
            images, targets = gather(indices[part], Key(0))
            yield Batch(images, targets, indices[part], part)
