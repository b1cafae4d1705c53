"""The resident pipeline: all bytes on the training device; whole blocks of batches are gathered and augmented there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from dnntrain.input.augment import NO_AUGMENTATION, Augmentation, RowAugmenter
from dnntrain.input.normalize import Normaliser
from dnntrain.input.order import Epochs, Range, Schedule
from dnntrain.input.source import Source
from dnntrain.input.unreadable import with_substitutes
from dnntrain.protocols import Batch, BatchTransform, PixelTransform, StepBatch
from dnntrain.utils.rng import Index, Key, number_of

#: Float bytes that are prepared at once. Larger blocks leave the cache of a CPU core, smaller ones pay more calls.
CHUNK_BYTES = 4 * 2**20

_COPIES: WeakKeyDictionary[Source, dict[str, Tensor]] = WeakKeyDictionary()


def images_on(source: Source, device: str) -> Tensor:
    """The source's bytes on `device`, copied there once and shared by training and evaluation."""
    images = source.resident()
    assert images is not None, "a source that is streamed has no resident images"
    if device == "cpu":
        return images
    copies = _COPIES.setdefault(source, {})
    if device not in copies:
        copies[device] = images.to(device)
    return copies[device]


class Gatherer:
    """Takes examples by number from resident bytes as normalised float images."""

    def __init__(
        self,
        source: Source,
        normalise: Normaliser,
        device: str,
        augmentation: Augmentation = NO_AUGMENTATION,
        pixels: Sequence[PixelTransform] = (),
    ) -> None:
        images = images_on(source, device)
        _, channels, height, width = images.shape
        # ArraySource keeps the channels of a pixel side by side, so that an image is one row of bytes.
        self.rows = images.permute(0, 2, 3, 1).view(len(images), -1)
        self.labels = torch.from_numpy(source.labels).to(device)
        self.normalise = normalise
        self.augment = RowAugmenter(augmentation, height, width, channels, device) if augmentation else None
        self.pixels = pixels
        self._shape = (height, width, channels)
        self._device = device
        self._buffers = Buffers()

    def __call__(self, index: Index, key: Key, copy: Index | None = None) -> tuple[Tensor, Tensor]:
        """(images float32 [n, c, h, w], targets int64 [n]) of the examples `index`; each `copy` [n] of one is augmented apart.

        The images are overwritten by the second call after this one.
        """
        where = torch.from_numpy(index).to(self._device)
        rows = torch.index_select(self.rows, 0, where, out=self._buffers.bytes(len(index), self.rows))
        number = index if copy is None else number_of(index, copy)
        if self.augment is not None:
            rows = self.augment(rows, number, key)
        for transform in self.pixels:
            images = transform(rows.view(len(rows), *self._shape).permute(0, 3, 1, 2), number, key)
            rows = images.permute(0, 2, 3, 1).reshape(len(index), -1)
        return self.normalise(rows, self._buffers.floats(rows)), self.labels.index_select(0, where)


@dataclass
class Buffers:
    """Memory that is written again and again, so that the system need not hand out fresh pages for each block.

    Floats alternate between two: a batch stays as it is until the second block after its own is prepared.
    """

    _bytes: Tensor | None = None
    _floats: list[Tensor] = field(default_factory=list)

    def bytes(self, count: int, rows: Tensor) -> Tensor:
        """uint8 [count, width of `rows`], on the device of `rows`."""
        if self._bytes is None or len(self._bytes) < count:
            self._bytes = torch.empty(count, rows.shape[1], dtype=torch.uint8, device=rows.device)
        return self._bytes[:count]

    def floats(self, rows: Tensor) -> Tensor:
        """float32 of the shape and on the device of `rows`."""
        if len(self._floats) == 2:
            self._floats.reverse()
        if len(self._floats) < 2 or len(self._floats[0]) < len(rows):
            fresh = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
            self._floats = [fresh, *self._floats[-1:]]
        return self._floats[0][: len(rows)]


class ResidentPipeline:
    """Prepares several consecutive steps at once and hands out views, so that a step costs next to nothing."""

    name = "resident"

    def __init__(
        self,
        source: Source,
        epochs: Epochs,
        gather: Gatherer,
        transforms: Sequence[BatchTransform],
    ) -> None:
        self._source = source
        self._epochs = epochs
        self._gather = gather
        self._transforms = transforms
        self._first = 0
        self._steps: list[StepBatch] = []
        self._order: tuple[int, Index] = (-1, np.empty(0, np.int64))
        self.steps_per_epoch = epochs.timetable.steps(0)

    def take(self, step: int) -> StepBatch:
        """The micro-batches of this rank in optimizer step `step`; valid until the step after the next is taken."""
        at = step - self._first
        if not 0 <= at < len(self._steps):
            self._prepare(step)
            at = step - self._first
        return self._steps[at]

    def skipped(self) -> dict[str, str]:
        return {self._source.describe(index): reason for index, reason in self._source.failed.items()}

    def close(self) -> None:
        self._steps = []

    def _prepare(self, step: int) -> None:
        """Makes the chunk of steps that holds `step`."""
        epoch, batch = self._epochs.timetable.place(step)
        schedule = self._epochs.of(epoch)
        first = step - batch
        if self._order[0] != epoch:
            self._order = (epoch, schedule.order(epoch))
        # Chunks start at fixed steps, also after a resume: where a batch lies in memory can show in the last bit.
        rank_batch = -(-schedule.batch_size // schedule.world.size)
        chunk = max(1, CHUNK_BYTES // (rank_batch * self._gather.rows.shape[1] * 4))
        batch -= batch % chunk
        batches = range(batch, min(batch + chunk, schedule.steps_per_epoch))
        ranges = [schedule.step_ranges(batch) for batch in batches]
        micro = iter(self._micro_batches(schedule, [micro for step_ranges in ranges for micro in step_ranges], epoch))
        self._steps = [
            StepBatch([next(micro) for _ in step_ranges], schedule.count(batch), schedule.passes(batch))
            for batch, step_ranges in zip(batches, ranges, strict=True)
        ]
        self._first = first + batch

    def _micro_batches(self, schedule: Schedule, ranges: list[Range], epoch: int) -> list[Batch]:
        if not ranges:
            return []
        key = Key(schedule.seed, "", epoch)
        position = np.concatenate([np.arange(start, end) for start, end in ranges])
        index = with_substitutes(self._order[1][position], schedule.indices, self._source.failed, key)
        copy = schedule.copies(position)
        images, targets = self._gather(index, key, copy)
        batch = Batch(images, targets, index, position, epoch, copy=copy)
        sizes = [end - start for start, end in ranges]
        if not self._transforms or schedule.aligned:
            return cut(transformed(batch, self._transforms, key), sizes)
        # A pair block that a micro-batch cuts must not find its other half here: the neighbours in memory are chance.
        return [transformed(micro, self._transforms, key) for micro in cut(batch, sizes)]


def transformed(batch: Batch, transforms: Sequence[BatchTransform], key: Key) -> Batch:
    """`batch` after all transforms, in order."""
    with torch.no_grad():
        for transform in transforms:
            batch = transform.apply(batch, key)
    return batch


def cut(batch: Batch, sizes: list[int]) -> list[Batch]:
    """Views of consecutive parts of `batch`, of `sizes` examples."""
    if len(sizes) == 1:
        return [batch]
    ends = np.cumsum(sizes).tolist()
    return [
        Batch(
            images,
            targets,
            batch.index[end - size : end],
            batch.position[end - size : end],
            batch.epoch,
            {name: tensor[end - size : end] for name, tensor in batch.extras.items()},
            None if batch.copy is None else batch.copy[end - size : end],
        )
        for images, targets, size, end in zip(
            torch.split(batch.images, sizes), torch.split(batch.targets, sizes), sizes, ends, strict=True
        )
    ]
