"""The order of an epoch, and who computes which part of it: pure functions of (seed, epoch, step, rank)."""

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
    """Cuts each epoch's global order into steps, each step into ranks, each rank's share into micro-batches.

    The order of an epoch is `indices` sorted by keyed random bits; step b of it covers positions [b * batch_size, (b +
    1) * batch_size), the last one what is left. Shares and micro-batches are contiguous; their bounds, counted from the
    first position of the step, are multiples of `pair_block` wherever each can hold a block.

    With `repeats` = k > 1 a step holds the next batch_size / k examples of the order k times, one round after the other, cut to the
    step's count. Steps keep their number and sizes; k epochs go once through the order, so that an epoch sees a k-th of the examples.
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
        """True where no pair block is ever cut, neither by a step nor by a rank nor by a micro-batch."""
        block = self.mix_block_size
        ranges = [self.compute_share(self.batch_size, rank) for rank in range(self.world.size)]
        return self.batch_size % block == 0 and all(
            start % block == 0 for share in ranges for start, _ in self.split_micro_batches(share)
        )

    def compute_order(self, epoch: int) -> Index:
        """The example at each position of one epoch [n]. Two examples' bits never tie, so any sort gives the same."""
        pass_index, round_index = divmod(epoch, self.augment_copies)
        order = self.indices[np.argsort(Key(self.seed, "shuffle", pass_index).bits(self.indices))]
        if self.augment_copies == 1:
            return order
        step, offset = np.divmod(np.arange(len(order)), self.batch_size)
        examples_per_step = self.batch_size // self.augment_copies
        slot = step * examples_per_step + offset % examples_per_step
        # The last of the k parts begins the order anew where a short last step leaves it incomplete.
        order_positions: Index = (round_index * (slot.max() + 1) + slot) % len(order)
        return order[order_positions]

    def compute_copies(self, position: Index) -> Index | None:
        """Which copy of its example in the step is at each position [n], from 0; None where there are none."""
        if self.augment_copies == 1:
            return None
        copy: Index = position % self.batch_size // (self.batch_size // self.augment_copies)
        return copy

    def count_examples(self, batch: int) -> int:
        """Examples of step `batch` of an epoch, on all ranks."""
        return min(self.batch_size, len(self.indices) - batch * self.batch_size)

    def compute_share(self, count: int, rank: int) -> PositionRange:
        """The positions, counted from the first of the step, that `rank` computes of a step of `count` examples."""
        ranks, block = self.world.size, self.mix_block_size
        # A short last step of an epoch leaves ranks without any rather than cut a block.
        if self.batch_size // block < ranks:
            return count * rank // ranks, count * (rank + 1) // ranks
        blocks = count // block
        end = count if rank == ranks - 1 else blocks * (rank + 1) // ranks * block
        return blocks * rank // ranks * block, end

    def split_micro_batches(self, share: PositionRange) -> list[PositionRange]:
        """`share` cut into micro-batches; none where it is empty."""
        size, (start, end) = self.micro_batch_size, share
        if size < end - start and size > self.mix_block_size:
            size -= size % self.mix_block_size
        return [(micro_start, min(micro_start + size, end)) for micro_start in range(start, end, size)]

    def count_micro_batches(self, batch: int) -> int:
        """Micro-batches of the rank that has most of them in step `batch` of an epoch."""
        count = self.count_examples(batch)
        return max(len(self.split_micro_batches(self.compute_share(count, rank))) for rank in range(self.world.size))

    def get_step_ranges(self, batch: int) -> list[PositionRange]:
        """The micro-batches of this rank in step `batch` of an epoch, as positions in the epoch's order."""
        first = batch * self.batch_size
        share = self.compute_share(self.count_examples(batch), self.world.rank)
        return [(first + start, first + end) for start, end in self.split_micro_batches(share)]


class BatchSchedules:
    """The schedule of each epoch: `schedule` with the batch size that `timetable` gives it."""

    def __init__(self, schedule: BatchSchedule, timetable: EpochSchedule) -> None:
        self.timetable = timetable
        self._schedules = {schedule.batch_size: schedule}
        self._template = schedule

    def get_schedule(self, epoch: int) -> BatchSchedule:
        """The schedule that cuts the order of `epoch`."""
        size = self.timetable.batch_size_at(epoch)
        schedule = self._schedules.get(size)
        if schedule is None:
            schedule = self._schedules[size] = replace(self._template, batch_size=size)
        return schedule
