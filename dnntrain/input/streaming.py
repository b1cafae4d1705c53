"""Feed training from worker processes, which prepare one micro-batch each.

They read, decode and augment image by image.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from itertools import count

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from dnntrain.input.augment import NO_AUGMENTATION
from dnntrain.input.masks import count_mask_bytes
from dnntrain.input.normalize import AnyNormalizer
from dnntrain.input.reader import Reader, Reply, Request
from dnntrain.input.resident import mark_transforms
from dnntrain.input.sampler import BatchSchedules
from dnntrain.input.shared_memory import check_shared_memory
from dnntrain.input.source import Source, make_targets
from dnntrain.input.unreadable import check_failure_limit
from dnntrain.input.worker_replies import (
    check_reply,
    choose_worker_count,
    preserve_signal_handler,
    return_reply,
    start_worker,
    start_workers,
    translate_worker_error,
    wait_for_reply,
)
from dnntrain.protocols import Batch, BatchTransform, DataChoice, PhaseMarker, StepBatch
from dnntrain.utils.rng import Index, Key

#: Requests that each worker is ahead: the default of torch's loader.
PREFETCHED = 2

#: Seconds after which a wait for data looks whether a signal asked to stop.
_POLL_S = 1.0

#: Seconds for which a wait continues after that signal, if the state cannot be saved within it: in an
#: evaluation, or if other ranks wait for this one.
_GRACE_S = 10.0


class StreamingPipeline:
    """Returns the micro-batches of the workers in order.

    Any step may be taken: the workers then restart there.
    """

    name = "streaming"

    def __init__(
        self,
        reader: Reader,
        schedules: BatchSchedules,
        normalize: AnyNormalizer,
        workers: int | None,
        device: str,
        transforms: Sequence[BatchTransform],
    ) -> None:
        self._reader = reader
        self._schedules = schedules
        schedule = schedules.get_schedule(0)
        self._seed = schedule.seed
        self._grace_s = 0.0 if schedule.world.size == 1 else _GRACE_S
        self._batch_bytes = schedule.micro_batch_size * (
            math.prod(normalize.shape) + count_mask_bytes(reader.source, normalize.shape)
        )
        self._receive = Receiver(reader.source, normalize, device)
        self._workers = choose_worker_count(workers, schedule.world.size)
        self._device = device
        self._transforms = transforms
        self._replies: Iterator[Reply] | None = None
        self._next = 0
        self._last_batch: StepBatch | None = None
        self.steps_per_epoch = schedules.timetable.steps_in_epoch(0)

    def take(self, step: int) -> StepBatch:
        """Return the micro-batches of this rank in optimizer step `step`."""
        if self._last_batch is not None and step == self._next - 1:
            return self._last_batch
        if self._replies is None or step != self._next:
            self._replies = None
            self._replies = read_ahead(
                self._reader,
                Requests(self._schedules, step),
                self._workers,
                self._device,
                self._batch_bytes,
                grace_s=self._grace_s,
            )
        epoch, batch = self.locate_step(step)
        schedule = self._schedules.get_schedule(epoch, step)
        try:
            micro_batches = [self._make_batch(next(self._replies)) for _ in schedule.get_step_ranges(batch)]
        except BaseException:
            # Otherwise the error's traceback would keep the workers.
            self.close()
            raise
        self._last_batch = StepBatch(micro_batches, schedule.count_examples(batch), schedule.count_micro_batches(batch))
        self._next = step + 1
        return self._last_batch

    def locate_step(self, step: int) -> tuple[int, int]:
        """Return the epoch of a step, and its number within the epoch."""
        return self._schedules.timetable.locate_step(step)

    def get_skipped_examples(self) -> dict[str, str]:
        source = self._reader.source
        return {source.describe(index): reason for index, reason in source.failures.items()}

    def mark_phases(self, mark: PhaseMarker) -> None:
        self._receive.mark_phases(mark)
        self._transforms = mark_transforms(self._transforms, mark)

    def close(self) -> None:
        self._replies = None

    def _make_batch(self, reply: Reply) -> Batch:
        batch, key = self._receive(reply), Key(self._seed, "", reply.epoch)
        with torch.no_grad():
            for transform in self._transforms:
                batch = transform.apply(batch, key)
        return batch


class Receiver:
    """Converts the reply of a worker into a batch on the device."""

    def __init__(self, source: Source, normalize: AnyNormalizer, device: str) -> None:
        self._source = source
        self._normalize = normalize
        self._device = device
        self._mark: PhaseMarker = nullcontext

    def mark_phases(self, mark: PhaseMarker) -> None:
        """Copy to the device within `mark(name)` from now on."""
        self._mark = mark

    def __call__(self, reply: Reply) -> Batch:
        if reply.failures:
            self._source.failures.update(reply.failures)
            check_failure_limit(self._source.failures, len(self._source))
        rows = reply.rows if len(reply.rows) else reply.rows.new_empty(0, math.prod(self._normalize.shape))
        targets = make_targets(self._source.labels[reply.examples]) if reply.masks is None else reply.masks
        with self._mark("host to device"):
            rows = rows.to(self._device, non_blocking=True)
            targets = targets.to(self._device, non_blocking=True)
        if reply.masks is not None:
            targets = targets.long()
        images = self._normalize(rows, torch.empty(rows.shape, dtype=torch.float32, device=self._device))
        return Batch(images, targets, reply.examples, reply.positions, reply.epoch, copy_index=reply.copies)


class Requests(Sampler[Request]):
    """The micro-batches of one rank from step `first` on, without end.

    The loader need not know the run's length.
    """

    def __init__(self, schedules: BatchSchedules, first: int) -> None:
        self._schedules = schedules
        self._first = first

    def __iter__(self) -> Iterator[Request]:
        locate_step, schedule = self._schedules.timetable.locate_step, self._schedules.get_schedule(0)
        current_epoch, order = -1, schedule.indices
        for step in count(self._first):
            epoch, batch = locate_step(step)
            if epoch != current_epoch:
                schedule = self._schedules.get_schedule(epoch)
                current_epoch, order = epoch, schedule.compute_order(epoch)
            for start, end in schedule.get_step_ranges(batch):
                position = np.arange(start, end)
                yield Request(order[start:end], position, epoch, schedule.compute_copies(position))


def stream_batches(
    options: DataChoice,
    source: Source,
    indices: Index,
    position_chunks: Sequence[Index],
    normalize: AnyNormalizer,
    device: str,
    ranks: int,
) -> Iterator[Batch]:
    """Yield evaluation batches of the positions `position_chunks` of `indices`.

    Skip unreadable examples or raise.
    """
    reader = Reader(source, NO_AUGMENTATION, 0, options.on_error == "skip", candidates=None, training=False)
    requests = [Request(indices[positions_of_batch], positions_of_batch, 0) for positions_of_batch in position_chunks]
    receive = Receiver(source, normalize, device)
    workers = choose_worker_count(options.num_workers, ranks) if len(requests) > 1 else 0
    batch_bytes = max((len(request.examples) for request in requests), default=0) * (
        math.prod(normalize.shape) + count_mask_bytes(source, normalize.shape)
    )
    with closing(read_ahead(reader, requests, workers, device, batch_bytes)) as replies:
        for reply in replies:
            batch = receive(reply)
            if len(batch):
                yield batch


def read_ahead(
    reader: Reader,
    requests: Sampler[Request] | Sequence[Request],
    workers: int,
    device: str,
    batch_bytes: int,
    option: str = "data.num_workers=",
    grace_s: float = _GRACE_S,
) -> Generator[Reply]:
    """Yield the replies to `requests` in order, from `workers` processes.

    Each process stays two requests ahead. With 0 workers, this process reads. Workers are forked if
    the system supports it: other start methods run the user's own script again. Workers never touch
    the device, and compute in one thread. `batch_bytes` is the size of the largest reply, `option`
    the setting of `workers` without its value. Raises ConfigError if /dev/shm has no room for the replies, and Stopped
    if a signal asked to stop `grace_s` seconds ago and a reply is still missing.
    """
    if workers == 0:
        yield from (check_reply(reader[request]) for request in requests)
        return
    check_shared_memory(batch_bytes, workers, option=option)
    with warnings.catch_warnings(), preserve_signal_handler("SIGCHLD"):
        # Newer Pythons warn of any fork beside threads; the workers take no lock that a thread of
        # this process could hold.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork.*")
        warnings.filterwarnings("ignore", message=".*worker processes in total.*")
        loader: DataLoader[Reply] = DataLoader(
            reader,
            sampler=requests,
            batch_size=None,
            num_workers=workers,
            pin_memory=device.startswith("cuda"),
            multiprocessing_context="fork" if hasattr(os, "fork") else None,
            timeout=_POLL_S,
            collate_fn=return_reply,
            worker_init_fn=start_worker,
            # A loader draws a seed for its workers, which use none; torch's own generator would shift
            # later dropout masks.
            generator=torch.Generator(),
        )
        replies = start_workers(loader)
    try:
        while True:
            try:
                yield check_reply(wait_for_reply(replies, grace_s))
            except StopIteration:
                return
            # A worker that dies while it sends images breaks the connection before torch notices
            # its death.
            except (RuntimeError, EOFError, ConnectionError) as error:
                raise translate_worker_error(error) from error
    finally:
        shut_down = getattr(replies, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()
