"""Order the examples of an epoch and divide them among ranks and micro-batches.

All functions are pure functions of (seed, epoch, step, rank).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dnntrain.errors import CheckpointError
from dnntrain.utils.epochs import EpochSchedule
from dnntrain.utils.rng import Index, Key
from dnntrain.utils.world import World

PositionRange = tuple[int, int]


@dataclass(frozen=True)
class BatchSchedule:
    """Cuts an epoch's order into steps, ranks' shares and micro-batches.

    The order of an epoch is `indices` sorted by keyed random bits. Step b covers positions [b *
    batch_size, (b + 1) * batch_size); the last step has the remaining examples, or is left out with
    `drop_last`. Shares and micro-batches are contiguous.

    The shares of a full step begin at multiples of `mix_block_size` if each can hold a block. The
    shares of a short last step are as equal as blocks of `kept_block_size` examples allow, which a
    method mixes or normalizes together. It is 1 without such a method; None means `mix_block_size`.

    With `joins_ranks`, layers have statistics of all ranks in each pass. Pass i of all ranks
    together then covers the same contiguous positions as micro-batch i of one process with ranks
    times the micro-batch. Otherwise a rank's passes cut its share of the step.

    With `augment_copies` = k > 1 a step holds the next batch_size / k examples of the order k
    times, one round after the other, cut to the step's count. Steps keep their number and sizes. k
    epochs traverse the order once, so that an epoch sees a k-th of the examples.

    With `classes`, the class of each of `indices`, the order of an epoch has as many examples, but
    equally many of each class: those of a rare class come several times, others not in each epoch.
    """

    indices: Index
    seed: int
    batch_size: int
    micro_batch_size: int
    world: World
    mix_block_size: int
    augment_copies: int = 1
    kept_block_size: int | None = None
    joins_ranks: bool = False
    drop_last: bool = False
    classes: Index | None = None

    @property
    def steps_per_epoch(self) -> int:
        return len(self.indices) // self.batch_size if self.drop_last else -(-len(self.indices) // self.batch_size)

    @cached_property
    def is_aligned(self) -> bool:
        """Whether no pair block is cut by a step, a rank or a micro-batch."""
        block = self.mix_block_size
        ranges = [self.cut_passes(self.batch_size, rank) for rank in range(self.world.size)]
        return self.batch_size % block == 0 and all(start % block == 0 for passes in ranges for start, _ in passes)

    def compute_order(self, epoch: int) -> Index:
        """Return the example at each position of one epoch [n].

        Bits never tie, so any sort gives the same order.
        """
        pass_index, round_index = divmod(epoch, self.augment_copies)
        key = Key(self.seed, "shuffle", pass_index)
        order = self.indices[np.argsort(key.bits(self.indices))] if self.classes is None else self._balance(key)
        if self.augment_copies == 1:
            return order
        positions = min(len(order), self.steps_per_epoch * self.batch_size)
        step, offset = np.divmod(np.arange(positions), self.batch_size)
        examples_per_step = self.batch_size // self.augment_copies
        slot = step * examples_per_step + offset % examples_per_step
        # The last of the k rounds wraps to the start of the order if a short last step leaves it
        # incomplete.
        order_positions: Index = (round_index * (slot.max() + 1) + slot) % len(order)
        return order[order_positions]

    def _balance(self, key: Key) -> Index:
        """Return the order of an epoch with equally many examples of each class.

        A class has its examples in keyed orders, one after another, each new one when all were used. An
        epoch continues where the one before ended, so all examples of a class come equally often.
        """
        assert self.classes is not None
        names = np.unique(self.classes)
        count = len(self.indices)
        slots = np.arange(count) % len(names)
        order = np.empty(count, np.int64)
        for place, name in enumerate(names):
            members = self.indices[self.classes == name]
            is_slot = slots == place
            drawn = key.epoch * int(is_slot.sum()) + np.arange(int(is_slot.sum()))
            rounds, offset = np.divmod(drawn, len(members))
            shuffled = {
                number: members[np.argsort(Key(key.seed, f"balance {place}", number).bits(members))]
                for number in np.unique(rounds).tolist()
            }
            order[is_slot] = [shuffled[number][at] for number, at in zip(rounds.tolist(), offset.tolist(), strict=True)]
        return order[np.argsort(key.bits(np.arange(count)))]

    def compute_copies(self, position: Index) -> Index | None:
        """Return the copy number of each position [n]; None without copies.

        Copies of a step are counted from 0. With balanced classes, an example may come several times in
        an epoch: its number is the position, so that each time it is augmented differently.
        """
        if self.classes is not None:
            return position
        if self.augment_copies == 1:
            return None
        copy: Index = position % self.batch_size // (self.batch_size // self.augment_copies)
        return copy

    def count_examples(self, batch: int) -> int:
        """Return the number of examples of step `batch` of an epoch, on all ranks."""
        return min(self.batch_size, len(self.indices) - batch * self.batch_size)

    def cut_passes(self, count: int, rank: int) -> list[PositionRange]:
        """Return the micro-batches of `rank` in a step of `count` examples; none if it is idle.

        They are ranges of positions relative to the step. A rank with fewer than others lacks the
        last ones.
        """
        if self.joins_ranks and self._get_largest_share(count) > self.micro_batch_size:
            return self._cut_joint_passes(count, rank)
        return self._split(self._compute_share(count, rank), self.micro_batch_size)

    def _get_largest_share(self, count: int) -> int:
        """Return the examples of the rank with the most in a step of `count`."""
        if count not in self._largest_shares:
            shares = [self._compute_share(count, rank) for rank in range(self.world.size)]
            self._largest_shares[count] = max(end - start for start, end in shares)
        return self._largest_shares[count]

    @cached_property
    def _largest_shares(self) -> dict[int, int]:
        """The examples of the rank with the most, by the examples of a step."""
        return {}

    @cached_property
    def _pass_counts(self) -> dict[int, int]:
        """The micro-batches of the rank with the most, by the examples of a step."""
        return {}

    def _cut_joint_passes(self, count: int, rank: int) -> list[PositionRange]:
        """Return this rank's share of each pass, which all ranks compute together."""
        size, block = self.micro_batch_size, self._kept_block_size
        size = size - size % block if size > block else size
        # One example on each rank needs no alignment, which would leave a rank without one.
        passes = self._split((0, count), size * self.world.size, is_aligned=size > 1)
        shares = [(first, self._divide(end - first, rank)) for first, end in passes]
        return [(first + start, first + end) for first, (start, end) in shares if start < end]

    def _compute_share(self, count: int, rank: int) -> PositionRange:
        """Return the positions, relative to the step, that `rank` computes of `count`."""
        if count < self.batch_size:
            return self._divide(count, rank)
        ranks, block = self.world.size, self.mix_block_size
        if self.batch_size // block < ranks:
            return count * rank // ranks, count * (rank + 1) // ranks
        blocks = count // block
        end = count if rank == ranks - 1 else blocks * (rank + 1) // ranks * block
        return blocks * rank // ranks * block, end

    def _divide(self, count: int, rank: int) -> PositionRange:
        """Divide `count` examples in units of the kept blocks; the first ranks have one more.

        The rest after the last whole block is a unit, or joins the unit before it if it is less
        than half a block and fits into a micro-batch.
        """
        block = self._kept_block_size
        units, rest = divmod(count, block)
        is_joined = units > 0 and 2 * rest < block and block + rest <= self.micro_batch_size
        units += bool(rest) and not is_joined
        per_rank, remaining = divmod(units, self.world.size)
        start, end = (other * per_rank + min(other, remaining) for other in (rank, rank + 1))
        return start * block if start < units else count, end * block if end < units else count

    def _split(self, share: PositionRange, size: int, is_aligned: bool = True) -> list[PositionRange]:
        """Return `share` cut into ranges of `size`; none if it is empty."""
        start, end = share
        if is_aligned and size < end - start and size > self.mix_block_size:
            size -= size % self.mix_block_size
        return [(micro_start, min(micro_start + size, end)) for micro_start in range(start, end, size)]

    @property
    def _kept_block_size(self) -> int:
        block = self.mix_block_size if self.kept_block_size is None else self.kept_block_size
        return block if block <= self.micro_batch_size else 1

    def count_micro_batches(self, batch: int) -> int:
        """Return the largest number of micro-batches of a rank in step `batch`."""
        count = self.count_examples(batch)
        if count not in self._pass_counts:
            self._pass_counts[count] = max(len(self.cut_passes(count, rank)) for rank in range(self.world.size))
        return self._pass_counts[count]

    def get_step_ranges(self, batch: int) -> list[PositionRange]:
        """Return the micro-batches of this rank in step `batch` of an epoch.

        They are ranges of positions in the epoch's order.
        """
        first = batch * self.batch_size
        passes = self.cut_passes(self.count_examples(batch), self.world.rank)
        return [(first + start, first + end) for start, end in passes]


class BatchSchedules:
    """The schedule of each epoch: `schedule` with the batch size from `timetable`."""

    def __init__(self, schedule: BatchSchedule, timetable: EpochSchedule) -> None:
        self.timetable = timetable
        self._schedules = {schedule.batch_size: schedule}
        self._template = schedule

    def get_schedule(self, epoch: int, step: int | None = None) -> BatchSchedule:
        """Return the schedule of `epoch`.

        Raises CheckpointError if `step` is of this epoch before the run was resumed within it with
        another batch size: a rollback cannot repeat such a step.
        """
        size = self.timetable.batch_size_at(epoch)
        if step is not None and self.timetable.find_size_at(step) != size:
            raise CheckpointError(
                f"step {step} cannot be repeated: the batch size changed within epoch {epoch} after it",
                "resume from a checkpoint at the start of the epoch, or after the change",
            )
        schedule = self._schedules.get(size)
        if schedule is None:
            schedule = self._schedules[size] = replace(self._template, batch_size=size)
        return schedule
