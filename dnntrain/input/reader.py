"""Reads micro-batches image by image, in any process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dnntrain.errors import DataError
from dnntrain.input.augment import Augmentation, augmented_one
from dnntrain.input.source import Source
from dnntrain.input.unreadable import substitutes
from dnntrain.protocols import PixelTransform
from dnntrain.utils.rng import Index, Key, number_of


@runtime_checkable
class TrainingReader(Protocol):
    """A source that reads an image differently each time it is trained on, such as a random part of it."""

    def read_training(self, index: int, key: Key, number: int) -> Tensor:
        """uint8 [channels, height, width]; what is random about it is keyed by `key` and `number`, the copy of the example."""
        ...


class Request(NamedTuple):
    """A micro-batch to read: `examples` [n], by number, at `positions` [n] of the order of `epoch`; `copies` [n], as in Batch."""

    examples: Index
    positions: Index
    epoch: int
    copies: Index | None = None


class Reply(NamedTuple):
    """What was read: rows uint8 [n, height * width * channels], and the examples that failed, with the reason.

    `refusal` is the message and hint of the DataError that ends the run; exceptions would lose their form between
    processes.
    """

    rows: Tensor
    examples: Index
    positions: Index
    epoch: int
    failed: dict[int, str]
    refusal: tuple[str, str] | None = None
    copies: Index | None = None


@dataclass(frozen=True)
class Reader(Dataset[Reply]):
    """Reads requests, in any process. `candidates` stand in for unreadable examples; None leaves those out instead."""

    source: Source
    augmentation: Augmentation
    seed: int
    skip: bool
    candidates: Index | None
    training: bool
    pixels: tuple[PixelTransform, ...] = ()

    def __getitem__(self, request: Request) -> Reply:
        try:
            return self._reply(request)
        except DataError as error:
            nothing = torch.empty(0, 0, dtype=torch.uint8)
            return Reply(
                nothing, request.examples[:0], request.positions[:0], request.epoch, {}, (error.message, error.hint)
            )

    def _reply(self, request: Request) -> Reply:
        key = Key(self.seed, "", request.epoch)
        rows, index, kept = [], [], []
        failed: dict[int, str] = {}
        copies = np.zeros_like(request.examples) if request.copies is None else request.copies
        for place, (example, copy) in enumerate(zip(request.examples.tolist(), copies.tolist(), strict=True)):
            found = self._read(example, copy, key, failed)
            if found is not None:
                image, number = found
                rows.append(image.permute(1, 2, 0).reshape(-1))
                index.append(number)
                kept.append(place)
        stacked = torch.stack(rows) if rows else torch.empty(0, 0, dtype=torch.uint8)
        return Reply(
            stacked,
            np.array(index, dtype=np.int64),
            request.positions[kept],
            request.epoch,
            failed,
            copies=None if request.copies is None else request.copies[kept],
        )

    def _read(self, example: int, copy: int, key: Key, failed: dict[int, str]) -> tuple[Tensor, int] | None:
        """The image of `example` or of its first readable substitute, and that one's number."""
        try:
            return self._read_one(example, copy, key), example
        except DataError as error:
            if not self.skip:
                raise
            failed[example] = error.message
        for other in substitutes(example, self.candidates, key) if self.candidates is not None else ():
            try:
                return self._read_one(other, copy, key), other
            except DataError as error:
                failed[other] = error.message
        if self.candidates is None:
            return None
        raise DataError(f"no readable image was found in place of {self.source.describe(example)}: {failed[example]}")

    def _read_one(self, example: int, copy: int, key: Key) -> Tensor:
        number = number_of(np.array([example]), np.array([copy]))
        if self.training and isinstance(self.source, TrainingReader):
            image = self.source.read_training(example, key, int(number[0]))
        else:
            image = self.source.read(example)
        if self.augmentation:
            image = augmented_one(image, self.augmentation, int(number[0]), key)
        for transform in self.pixels:
            (image,) = transform(image[None], number, key)
        return image
