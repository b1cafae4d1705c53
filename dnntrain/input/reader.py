"""Read micro-batches image by image, in any process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from dnntrain.errors import DataError
from dnntrain.input.augment import Augmentation, augment_image
from dnntrain.input.masks import MaskSource, augment_mask
from dnntrain.input.source import Source
from dnntrain.input.unreadable import draw_substitutes
from dnntrain.protocols import ImageTransform, MaskTransform
from dnntrain.utils.explain_error import explain_error
from dnntrain.utils.rng import Index, Key, make_rng_index


@runtime_checkable
class TrainingSource(Protocol):
    """A source that reads an image differently for training, such as a random crop."""

    def read_for_training(self, index: int, key: Key, rng_index: int) -> Tensor:
        """Return uint8 [channels, height, width].

        `key` and `rng_index`, the copy of the example, key random choices.
        """
        ...


class Request(NamedTuple):
    """A micro-batch to read: `examples` [n] at `positions` [n] of `epoch`'s order.

    `copies` [n] as in Batch.
    """

    examples: Index
    positions: Index
    epoch: int
    copies: Index | None = None


class ReadExample(NamedTuple):
    """An augmented image, uint8 [channels, height, width], and its mask, uint8 [height, width], if it has one."""

    example: int
    image: Tensor
    mask: Tensor | None


class Reply(NamedTuple):
    """The result of a request.

    `rows` are uint8 [n, height * width * channels]; `failures` holds failed examples with the
    reason. `refusal` is the exit code, message and hint of the error that ends the run; exceptions
    lose their form between processes. `masks` are uint8 [n, height, width] if the source has masks.
    """

    rows: Tensor
    examples: Index
    positions: Index
    epoch: int
    failures: dict[int, str]
    refusal: tuple[int, str, str] | None = None
    copies: Index | None = None
    masks: Tensor | None = None


@dataclass(frozen=True)
class Reader(Dataset[Reply]):
    """Reads requests, in any process.

    `candidates` replace unreadable examples; None skips them.
    """

    source: Source
    augmentation: Augmentation
    seed: int
    skip_unreadable: bool
    candidates: Index | None
    training: bool
    image_transforms: tuple[ImageTransform, ...] = ()
    mask_transforms: tuple[MaskTransform, ...] = ()

    def __getitem__(self, request: Request) -> Reply:
        try:
            reply = self._build_reply(request)
            if get_worker_info() is not None:
                # Here and not when the reply is sent, where a failure would be lost.
                for tensor in (reply.rows, reply.masks):
                    if tensor is not None:
                        tensor.share_memory_()  # type: ignore[no-untyped-call]
            return reply
        except Exception as caught_error:
            error = explain_error(caught_error)
            if error is None:
                raise
            no_rows = torch.empty(0, 0, dtype=torch.uint8)
            refusal = (error.exit_code, error.message, error.hint)
            return Reply(no_rows, request.examples[:0], request.positions[:0], request.epoch, {}, refusal)

    def _build_reply(self, request: Request) -> Reply:
        key = Key(self.seed, "", request.epoch)
        rows, masks, index, kept_slots = [], [], [], []
        failures: dict[int, str] = {}
        copies = np.zeros_like(request.examples) if request.copies is None else request.copies
        for slot, (example, copy) in enumerate(zip(request.examples.tolist(), copies.tolist(), strict=True)):
            read = self._read_or_substitute(example, copy, key, failures)
            if read is not None:
                rows.append(read.image.permute(1, 2, 0).reshape(-1))
                masks += [] if read.mask is None else [read.mask]
                index.append(read.example)
                kept_slots.append(slot)
        stacked_rows = torch.stack(rows) if rows else torch.empty(0, 0, dtype=torch.uint8)
        return Reply(
            stacked_rows,
            np.array(index, dtype=np.int64),
            request.positions[kept_slots],
            request.epoch,
            failures,
            copies=None if request.copies is None else request.copies[kept_slots],
            masks=torch.stack(masks) if masks else None,
        )

    def _read_or_substitute(self, example: int, copy: int, key: Key, failures: dict[int, str]) -> ReadExample | None:
        """Return the image of `example`, or of its first readable substitute."""
        try:
            return self._read_example(example, copy, key)
        except DataError as error:
            if not self.skip_unreadable:
                raise
            failures[example] = error.message
        for substitute in draw_substitutes(example, self.candidates, key) if self.candidates is not None else ():
            try:
                return self._read_example(substitute, copy, key)
            except DataError as error:
                failures[substitute] = error.message
        if self.candidates is None:
            return None
        raise DataError(f"found no readable image to replace {self.source.describe(example)}: {failures[example]}")

    def _read_example(self, example: int, copy: int, key: Key) -> ReadExample:
        rng_index = make_rng_index(np.array([example]), np.array([copy]))
        if self.training and isinstance(self.source, TrainingSource):
            image = self.source.read_for_training(example, key, int(rng_index[0]))
        else:
            image = self.source.read(example)
        if self.augmentation:
            image = augment_image(image, self.augmentation, int(rng_index[0]), key)
        for transform in self.image_transforms:
            (image,) = transform(image[None], rng_index, key)
        mask = None
        if isinstance(self.source, MaskSource):
            mask = self.source.read_mask(example)
            mask = augment_mask(mask, self.augmentation, self.mask_transforms, rng_index, key)
        return ReadExample(example, image, mask)
