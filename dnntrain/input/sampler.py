"""Order the examples of an epoch and divide them among ranks and micro-batches.

All functions are pure functions of (seed, epoch, step, rank).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dnntrain.utils.epochs import EpochSchedule
from dnntrain.utils.rng import Index, Key
from dnntrain.utils.world import World

PositionRange = tuple[int, int]


@dataclass(frozen=True)
class BatchSchedule:
    """Cuts an epoch's order into steps, ranks' shares and micro-batches.

    The order of an epoch is `indices` sorted by keyed random bits. Step b covers positions [b *
    batch_size, (b + 1) * batch_size); the last step has the remaining examples. Shares and
    micro-batches are contiguous. Their bounds, counted from the first position of the step, are
    multiples of `mix_block_size` if each can hold a block.

    With `augment_copies` = k > 1 a step holds the next batch_size / k examples of the order k
    times, one round after the other, cut to the step's count. Steps keep their number and sizes. k
    epochs traverse the order once, so that an epoch sees a k-th of the examples.
    """

    indices: Index
    seed: int
    batch_size: int
    micro_batch_size: int
    world: World
    mix_block_size: int
    augment_copies: int = 1

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    @cached_property
    def is_aligned(self) -> bool:
        """Whether no pair block is cut by a step, a rank or a micro-batch."""
        block = self.mix_block_size
        ranges = [self.compute_share(self.batch_size, rank) for rank in range(self.world.size)]
        return self.batch_size % block == 0 and all(
            start % block == 0 for share in ranges for start, _ in self.split_micro_batches(share)
        )

    def compute_order(self, epoch: int) -> Index:
        """Return the example at each position of one epoch [n].

        Bits never tie, so any sort gives the same order.
        """
        pass_index, round_index = divmod(epoch, self.augment_copies)
        order = self.indices[np.argsort(Key(self.seed, "shuffle", pass_index).bits(self.indices))]
        if self.augment_copies == 1:
            return order
        step, offset = np.divmod(np.arange(len(order)), self.batch_size)
        examples_per_step = self.batch_size // self.augment_copies
        slot = step * examples_per_step + offset % examples_per_step
        # The last of the k rounds wraps to the start of the order if a short last step leaves it
        # incomplete.
        order_positions: Index = (round_index * (slot.max() + 1) + slot) % len(order)
        return order[order_positions]

    def compute_copies(self, position: Index) -> Index | None:
        """Return the copy number of each position [n] within its step, from 0.

        Returns None if there are no copies.
        """
        if self.augment_copies == 1:
            return None
        copy: Index = position % self.batch_size // (self.batch_size // self.augment_copies)
        return copy

    def count_examples(self, batch: int) -> int:
        """Return the number of examples of step `batch` of an epoch, on all ranks."""
        return min(self.batch_size, len(self.indices) - batch * self.batch_size)

    def compute_share(self, count: int, rank: int) -> PositionRange:
        """Return the positions, relative to the step, that `rank` computes of `count`."""
        ranks, block = self.world.size, self.mix_block_size
        # A short last step leaves ranks without examples rather than cut a block.
        if self.batch_size // block < ranks:
            return count * rank // ranks, count * (rank + 1) // ranks
        blocks = count // block
        end = count if rank == ranks - 1 else blocks * (rank + 1) // ranks * block
        return blocks * rank // ranks * block, end

    def split_micro_batches(self, share: PositionRange) -> list[PositionRange]:
        """Return `share` cut into micro-batches; none if it is empty."""
        size, (start, end) = self.micro_batch_size, share
        if size < end - start and size > self.mix_block_size:
            size -= size % self.mix_block_size
        return [(micro_start, min(micro_start + size, end)) for micro_start in range(start, end, size)]

    def count_micro_batches(self, batch: int) -> int:
        """Return the largest number of micro-batches of a rank in step `batch`."""
        count = self.count_examples(batch)
        return max(len(self.split_micro_batches(self.compute_share(count, rank))) for rank in range(self.world.size))

    def get_step_ranges(self, batch: int) -> list[PositionRange]:
        """Return the micro-batches of this rank in step `batch` of an epoch.

        They are ranges of positions in the epoch's order.
        """
        first = batch * self.batch_size
        share = self.compute_share(self.count_examples(batch), self.world.rank)
        return [(first + start, first + end) for start, end in self.split_micro_batches(share)]


class BatchSchedules:
    """The schedule of each epoch: `schedule` with the batch size from `timetable`."""

    def __init__(self, schedule: BatchSchedule, timetable: EpochSchedule) -> None:
        self.timetable = timetable
        self._schedules = {schedule.batch_size: schedule}
        self._template = schedule

    def get_schedule(self, epoch: int) -> BatchSchedule:
        """Return the schedule of `epoch`."""
        size = self.timetable.batch_size_at(epoch)
        schedule = self._schedules.get(size)
        if schedule is None:
            schedule = self._schedules[size] = replace(self._template, batch_size=size)
        return schedule
