"""Feed training from bytes on the device, a block of batches at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from dnntrain.input.augment import NO_AUGMENTATION, Augmentation, RowAugmenter
from dnntrain.input.decoded_cache import CachingSource
from dnntrain.input.masks import MaskGatherer, MaskSource
from dnntrain.input.normalize import AnyNormalizer
from dnntrain.input.sampler import BatchSchedule, BatchSchedules, PositionRange
from dnntrain.input.source import Source, make_targets
from dnntrain.input.token_source import TokenExamples
from dnntrain.input.unreadable import replace_unreadable
from dnntrain.protocols import (
    Batch,
    BatchStage,
    BatchTransform,
    ImageTransform,
    MaskTransform,
    PhaseMarker,
    StepBatch,
)
from dnntrain.utils.rng import Index, Key, make_rng_index

#: Bytes of floats prepared at once. Larger blocks leave the cache of a CPU core, smaller ones cost
#: more calls.
CHUNK_BYTES = 4 * 2**20

_DEVICE_COPIES: WeakKeyDictionary[Source, dict[str, Tensor]] = WeakKeyDictionary()


def get_device_inputs(source: Source, device: str) -> Tensor:
    """Return the source's inputs on `device`.

    They are copied once and shared by training and evaluation. Those that an open cache lacks are zeros.
    """
    inputs = source.get_resident_inputs()
    if inputs is None and isinstance(source, CachingSource) and source.has_cache:
        inputs = source.get_cached_inputs()
    assert inputs is not None, "a source that is streamed has no resident inputs"
    if device == "cpu":
        return inputs
    copies = _DEVICE_COPIES.setdefault(source, {})
    if device not in copies:
        copies[device] = inputs.to(device)
    return copies[device]


def is_on_device(source: Source, device: str) -> bool:
    """Return whether `get_device_inputs` made its copy already."""
    return device in _DEVICE_COPIES.get(source, {})


class GatherExamples(Protocol):
    """Gathers examples by number. `row_bytes` are the bytes of a prepared example."""

    row_bytes: int

    def __call__(self, index: Index, key: Key, copy: Index | None = None) -> tuple[Tensor, Tensor]:
        """Return (inputs [n, …], targets [n, …]) of the examples `index`, as a model gets them."""
        ...


def make_gatherer(
    source: Source,
    normalize: AnyNormalizer,
    device: str,
    augmentation: Augmentation = NO_AUGMENTATION,
    image_transforms: Sequence[ImageTransform] = (),
    mask_transforms: Sequence[MaskTransform] = (),
) -> GatherExamples:
    """Return the function that gathers the examples of a source that is held in memory."""
    if isinstance(source, TokenExamples):
        return TokenGatherer(source, device)
    return Gatherer(source, normalize, device, augmentation, image_transforms, mask_transforms)


class TokenGatherer:
    """Gathers examples of tokens: int64 inputs [n, length] and the target or targets of each.

    The tokens stay in the memory of the host, or in their file; only the examples of a block are copied.
    """

    def __init__(self, source: TokenExamples, device: str) -> None:
        self._source, self._device = source, device
        self.row_bytes = 16 * source.length

    def __call__(self, index: Index, key: Key, copy: Index | None = None) -> tuple[Tensor, Tensor]:
        inputs, targets = (torch.from_numpy(values) for values in self._source.gather(index))
        return inputs.to(self._device), targets.to(self._device)


class Gatherer:
    """Gathers examples by number from resident inputs, and normalizes them."""

    def __init__(
        self,
        source: Source,
        normalize: AnyNormalizer,
        device: str,
        augmentation: Augmentation = NO_AUGMENTATION,
        image_transforms: Sequence[ImageTransform] = (),
        mask_transforms: Sequence[MaskTransform] = (),
    ) -> None:
        inputs = get_device_inputs(source, device)
        channels, height, width = inputs.shape[1:] if inputs.ndim == 4 else (0, 0, 0)
        # ArraySource keeps the channels of a pixel side by side, so that an image is one row of
        # bytes.
        self.rows = inputs.permute(0, 2, 3, 1).view(len(inputs), -1) if inputs.ndim == 4 else inputs
        masks = source.get_resident_masks() if isinstance(source, MaskSource) else None
        self.gather_masks = None if masks is None else MaskGatherer(masks, augmentation, mask_transforms, device)
        self.labels = make_targets(source.labels).to(device)
        self.normalize = normalize
        self.augment = RowAugmenter(augmentation, height, width, channels, device) if augmentation else None
        self.image_transforms = image_transforms
        self._shape = (height, width, channels)
        self._device = device
        self._buffers = Buffers()
        self.row_bytes = self.rows.shape[1] * 4

    def __call__(self, index: Index, key: Key, copy: Index | None = None) -> tuple[Tensor, Tensor]:
        """Return (inputs float32 [n, …], targets [n, …]) of the examples `index`.

        Each copy `copy` [n] of an example is augmented separately. The second call after this one
        overwrites the inputs.
        """
        device_index = torch.from_numpy(index).to(self._device)
        rows = torch.index_select(self.rows, 0, device_index, out=self._buffers.get_bytes(len(index), self.rows))
        rng_index = index if copy is None else make_rng_index(index, copy)
        if self.augment is not None:
            rows = self.augment(rows, rng_index, key)
        for transform in self.image_transforms:
            images = transform(rows.view(len(rows), *self._shape).permute(0, 3, 1, 2), rng_index, key)
            rows = images.permute(0, 2, 3, 1).reshape(len(index), -1)
        inputs = self.normalize(rows, self._buffers.get_floats(rows))
        if self.gather_masks is not None:
            return inputs, self.gather_masks(device_index, rng_index, key)
        return inputs, self.labels.index_select(0, device_index)


@dataclass
class Buffers:
    """Reused memory, so that the system need not provide fresh pages for each block.

    Two float buffers alternate: a batch is valid until the second block after its own is prepared.
    """

    _bytes: Tensor | None = None
    _floats: list[Tensor] = field(default_factory=list)

    def get_bytes(self, count: int, rows: Tensor) -> Tensor:
        """Return [count, width of `rows`] of the dtype and on the device of `rows`."""
        if self._bytes is None or len(self._bytes) < count:
            self._bytes = torch.empty(count, rows.shape[1], dtype=rows.dtype, device=rows.device)
        return self._bytes[:count]

    def get_floats(self, rows: Tensor) -> Tensor:
        """Return float32 of the shape and on the device of `rows`."""
        if len(self._floats) == 2:
            self._floats.reverse()
        if len(self._floats) < 2 or len(self._floats[0]) < len(rows):
            fresh = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
            self._floats = [fresh, *self._floats[-1:]]
        return self._floats[0][: len(rows)]


class ResidentPipeline:
    """Prepares several consecutive steps at once and returns views of them.

    A step then costs almost nothing.
    """

    name = "resident"

    def __init__(
        self,
        source: Source,
        schedules: BatchSchedules,
        gather: GatherExamples,
        transforms: Sequence[BatchTransform],
    ) -> None:
        self._source = source
        self._schedules = schedules
        self._gather = gather
        self._transforms = transforms
        self._first = 0
        self._steps: list[StepBatch] = []
        self._order: tuple[int, Index] = (-1, np.empty(0, np.int64))
        self.steps_per_epoch = schedules.timetable.steps_in_epoch(0)

    def take(self, step: int) -> StepBatch:
        """Return the micro-batches of this rank in step `step`.

        Valid until the step after the next is taken.
        """
        offset = step - self._first
        if not 0 <= offset < len(self._steps):
            self._prepare_chunk(step)
            offset = step - self._first
        return self._steps[offset]

    def get_skipped_examples(self) -> dict[str, str]:
        return {self._source.describe(index): reason for index, reason in self._source.failures.items()}

    def mark_phases(self, mark: PhaseMarker) -> None:
        self._transforms = mark_transforms(self._transforms, mark)

    def close(self) -> None:
        self._steps = []

    def _prepare_chunk(self, step: int) -> None:
        """Prepare the chunk of steps that holds `step`."""
        epoch, batch = self._schedules.timetable.locate_step(step)
        schedule = self._schedules.get_schedule(epoch, step)
        first = step - batch
        if self._order[0] != epoch:
            self._order = (epoch, schedule.compute_order(epoch))
        # Chunks start at fixed steps, also after a resume: the memory position of a batch can
        # change the last bit.
        rank_batch = -(-schedule.batch_size // schedule.world.size)
        chunk = max(1, CHUNK_BYTES // (rank_batch * self._gather.row_bytes))
        batch -= batch % chunk
        batches = range(batch, min(batch + chunk, schedule.steps_per_epoch))
        ranges = [schedule.get_step_ranges(batch) for batch in batches]
        micro = iter(
            self._make_micro_batches(schedule, [micro for step_ranges in ranges for micro in step_ranges], epoch)
        )
        self._steps = [
            StepBatch(
                [next(micro) for _ in step_ranges], schedule.count_examples(batch), schedule.count_micro_batches(batch)
            )
            for batch, step_ranges in zip(batches, ranges, strict=True)
        ]
        self._first = first + batch

    def _make_micro_batches(self, schedule: BatchSchedule, ranges: list[PositionRange], epoch: int) -> list[Batch]:
        if not ranges:
            return []
        key = Key(schedule.seed, "", epoch)
        position = np.concatenate([np.arange(start, end) for start, end in ranges])
        index = replace_unreadable(self._order[1][position], schedule.indices, self._source.failures, key)
        copy = schedule.compute_copies(position)
        images, targets = self._gather(index, key, copy)
        batch = Batch(images, targets, index, position, epoch, copy_index=copy)
        sizes = [end - start for start, end in ranges]
        if not self._transforms or schedule.is_aligned:
            return split_batch(apply_transforms(batch, self._transforms, key), sizes)
        # A pair block that a micro-batch cuts must not find its other half here: which rows are
        # adjacent is chance.
        return [apply_transforms(micro, self._transforms, key) for micro in split_batch(batch, sizes)]


def apply_transforms(batch: Batch, transforms: Sequence[BatchTransform], key: Key) -> Batch:
    """Return `batch` after all transforms, in order."""
    with torch.no_grad():
        for transform in transforms:
            batch = transform.apply(batch, key)
    return batch


def mark_transforms(transforms: Sequence[BatchTransform], mark: PhaseMarker) -> list[BatchTransform]:
    """Return transforms that run within `mark("teacher")` or `mark("augmentation")`."""

    def mark_transform(transform: BatchTransform) -> BatchTransform:
        name = "teacher" if transform.stage is BatchStage.TEACHER else "augmentation"

        def apply(batch: Batch, key: Key) -> Batch:
            with mark(name):
                return transform.apply(batch, key)

        return replace(transform, apply=apply)

    return [mark_transform(transform) for transform in transforms]


def split_batch(batch: Batch, sizes: list[int]) -> list[Batch]:
    """Return views of consecutive parts of `batch`, of `sizes` examples."""
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
            None if batch.copy_index is None else batch.copy_index[end - size : end],
        )
        for images, targets, size, end in zip(
            torch.split(batch.inputs, sizes), torch.split(batch.targets, sizes), sizes, ends, strict=True
        )
    ]
