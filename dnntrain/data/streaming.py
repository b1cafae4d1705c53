"""The streaming pipeline: worker processes read, decode and augment image by image, one micro-batch each."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dnntrain.data.augment import NO_AUGMENTATION, Augmentation, augmented_one
from dnntrain.data.failures import check_limit, substitutes
from dnntrain.data.image_data import ImageData
from dnntrain.data.normalise import Normaliser
from dnntrain.data.order import Schedule
from dnntrain.data.source import Source
from dnntrain.errors import DataError
from dnntrain.keys import Index, Key
from dnntrain.protocols import Batch, BatchTransform, StepBatch

_MOST_WORKERS = 8


@runtime_checkable
class TrainingReader(Protocol):
    """A source that reads an image differently each time it is trained on, such as a random part of it."""

    def read_training(self, index: int, key: Key) -> Tensor:
        """uint8 [channels, height, width]; what is random about it is keyed by `key` and `index`."""
        ...


class Request(NamedTuple):
    """A micro-batch to read: examples `index` [n] at `position` [n] of the order of `epoch`."""

    index: Index
    position: Index
    epoch: int


class Reply(NamedTuple):
    """What was read: rows uint8 [n, height * width * channels], and the examples that failed, with the reason.

    `refusal` is the message and hint of the DataError that ends the run; exceptions would lose their form between processes.
    """

    rows: Tensor
    index: Index
    position: Index
    epoch: int
    failed: dict[int, str]
    refusal: tuple[str, str] | None = None


@dataclass(frozen=True)
class Reader(Dataset[Reply]):
    """Reads requests, in any process. `candidates` stand in for unreadable examples; None leaves those out instead."""

    source: Source
    augmentation: Augmentation
    seed: int
    skip: bool
    candidates: Index | None
    training: bool

    def __getitem__(self, request: Request) -> Reply:
        try:
            return self._reply(request)
        except DataError as error:
            nothing = torch.empty(0, 0, dtype=torch.uint8)
            return Reply(
                nothing, request.index[:0], request.position[:0], request.epoch, {}, (error.message, error.hint)
            )

    def _reply(self, request: Request) -> Reply:
        key = Key(self.seed, "", request.epoch)
        rows, index, position = [], [], []
        failed: dict[int, str] = {}
        for example, place in zip(request.index.tolist(), request.position.tolist(), strict=True):
            found = self._read(example, key, failed)
            if found is not None:
                image, number = found
                rows.append(image.permute(1, 2, 0).reshape(-1))
                index.append(number)
                position.append(place)
        stacked = torch.stack(rows) if rows else torch.empty(0, 0, dtype=torch.uint8)
        return Reply(
            stacked, np.array(index, dtype=np.int64), np.array(position, dtype=np.int64), request.epoch, failed
        )

    def _read(self, example: int, key: Key, failed: dict[int, str]) -> tuple[Tensor, int] | None:
        """The image of `example` or of its first readable substitute, and that one's number."""
        try:
            return self._read_one(example, key), example
        except DataError as error:
            if not self.skip:
                raise
            failed[example] = error.message
        for other in substitutes(example, self.candidates, key) if self.candidates is not None else ():
            try:
                return self._read_one(other, key), other
            except DataError as error:
                failed[other] = error.message
        if self.candidates is None:
            return None
        raise DataError(f"no readable image was found in place of {self.source.describe(example)}: {failed[example]}")

    def _read_one(self, example: int, key: Key) -> Tensor:
        if self.training and isinstance(self.source, TrainingReader):
            image = self.source.read_training(example, key)
        else:
            image = self.source.read(example)
        return augmented_one(image, self.augmentation, example, key) if self.augmentation else image


class StreamingPipeline:
    """Hands out what the workers read, in order. Any step may be asked for: the workers then begin anew there."""

    name = "streaming"

    def __init__(
        self,
        reader: Reader,
        schedule: Schedule,
        normalise: Normaliser,
        workers: int | None,
        device: str,
        transforms: Sequence[BatchTransform],
    ) -> None:
        self._reader = reader
        self._schedule = schedule
        self._receive = Receiver(reader.source, normalise, device)
        self._workers = worker_count(workers, schedule.world.size)
        self._device = device
        self._transforms = transforms
        self._replies: Iterator[Reply] | None = None
        self._next = 0
        self._taken: StepBatch | None = None
        self.steps_per_epoch = schedule.steps_per_epoch

    def take(self, step: int) -> StepBatch:
        """The micro-batches of this rank in optimizer step `step`."""
        if self._taken is not None and step == self._next - 1:
            return self._taken
        if self._replies is None or step != self._next:
            self._replies = None
            self._replies = read_ahead(self._reader, Requests(self._schedule, step), self._workers, self._device)
        batch = step % self.steps_per_epoch
        micro = [self._batch(next(self._replies)) for _ in self._schedule.step_ranges(batch)]
        self._taken, self._next = StepBatch(micro, self._schedule.count(batch)), step + 1
        return self._taken

    def skipped(self) -> dict[str, str]:
        source = self._reader.source
        return {source.describe(index): reason for index, reason in source.failed.items()}

    def close(self) -> None:
        self._replies = None

    def _batch(self, reply: Reply) -> Batch:
        batch, key = self._receive(reply), Key(self._schedule.seed, "", reply.epoch)
        with torch.no_grad():
            for transform in self._transforms:
                batch = transform.apply(batch, key)
        return batch


class Receiver:
    """Turns what a worker sent into a batch on the device."""

    def __init__(self, source: Source, normalise: Normaliser, device: str) -> None:
        self._source = source
        self._normalise = normalise
        self._device = device

    def __call__(self, reply: Reply) -> Batch:
        if reply.refusal is not None:
            raise DataError(*reply.refusal)
        if reply.failed:
            self._source.failed.update(reply.failed)
            check_limit(self._source.failed, len(self._source))
        rows = reply.rows if len(reply.rows) else reply.rows.new_empty(0, math.prod(self._normalise.shape))
        rows = rows.to(self._device, non_blocking=True)
        targets = torch.from_numpy(self._source.labels[reply.index]).to(self._device, non_blocking=True)
        images = self._normalise(rows, torch.empty(rows.shape, dtype=torch.float32, device=self._device))
        return Batch(images, targets, reply.index, reply.position, reply.epoch)


class Requests(Sampler[Request]):
    """The micro-batches of one rank from step `first` on, without end: the run's length is not the loader's business."""

    def __init__(self, schedule: Schedule, first: int) -> None:
        self._schedule = schedule
        self._first = first

    def __iter__(self) -> Iterator[Request]:
        schedule = self._schedule
        known, order = -1, schedule.indices
        for step in count(self._first):
            epoch, batch = divmod(step, schedule.steps_per_epoch)
            if epoch != known:
                known, order = epoch, schedule.order(epoch)
            for start, end in schedule.step_ranges(batch):
                yield Request(order[start:end], np.arange(start, end), epoch)


def streamed(
    options: ImageData, source: Source, indices: Index, parts: Sequence[Index], normalise: Normaliser, device: str
) -> Iterator[Batch]:
    """Batches for evaluation: the positions `parts` of `indices`, unaugmented; unreadable ones are left out or an error."""
    reader = Reader(source, NO_AUGMENTATION, 0, options.on_error == "skip", candidates=None, training=False)
    requests = [Request(indices[part], part, 0) for part in parts]
    receive = Receiver(source, normalise, device)
    for reply in read_ahead(reader, requests, worker_count(options.workers, 1) if len(requests) > 1 else 0, device):
        batch = receive(reply)
        if len(batch):
            yield batch


def read_ahead(
    reader: Reader, requests: Sampler[Request] | Sequence[Request], workers: int, device: str
) -> Iterator[Reply]:
    """The replies to `requests`, in order, by `workers` processes (0: by this one) that stay two requests ahead each.

    Workers are forked where the system can: other ways to start them run the user's own script once more. They never touch
    the device, and compute in one thread.
    """
    if workers == 0:
        yield from (reader[request] for request in requests)
        return
    loader: DataLoader[Reply] = DataLoader(
        reader,
        sampler=requests,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        pin_memory=device.startswith("cuda"),
        multiprocessing_context="fork" if hasattr(os, "fork") else None,
        collate_fn=_unchanged,
        worker_init_fn=_start_worker,
    )
    with warnings.catch_warnings():
        # Newer Pythons warn of any fork beside threads; the workers take no lock that a thread of ours could hold.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork.*")
        warnings.filterwarnings("ignore", message=".*worker processes in total.*")
        replies = iter(loader)
    try:
        while True:
            try:
                yield next(replies)
            except StopIteration:
                return
            except RuntimeError as error:
                raise _worker_error(error) from error
    finally:
        # Without this the workers would live until the garbage collector finds the iterator.
        shut_down = getattr(replies, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()


def worker_count(workers: int | None, ranks: int) -> int:
    """`workers`, or one for each core that this rank's share of the machine has besides its own, at least one, at most 8."""
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_WORKERS, cores // max(ranks, 1) - 1))


def _unchanged(reply: Reply) -> Reply:
    return reply


def _start_worker(_: int) -> None:
    # A Ctrl-C or SIGTERM to the process group is for the training process, which still needs its workers to end well.
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


def _worker_error(error: RuntimeError) -> Exception:
    if "exited unexpectedly" in str(error) or "killed by signal" in str(error):
        return DataError(
            f"a reading process died ({str(error).splitlines()[0]})",
            "often memory or /dev/shm ran out: use fewer data.workers, or data.workers=0 to see the error itself",
        )
    return error
