"""Ghost batch normalization.

Hoffer, Hubara & Soudry, "Train longer, generalize better", 2017, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dnntrain.choices.norm._convert import BatchNormChoice, BatchNormVariant, change_layer_class
from dnntrain.config.fields import Annotated, Range
from dnntrain.errors import ConfigError
from dnntrain.nn.placeholder_rows import JointStatistics, is_ignoring_rows
from dnntrain.protocols import BuildContext, Collectives, Hooks, NormFacts, SingleProcess


@dataclass(frozen=True)
class Ghost(BatchNormChoice):
    """Normalize every `virtual_batch_size` consecutive examples with their own statistics.

    This regularizes as a small batch does. Running statistics move toward the mean over the virtual
    batches of all ranks, as far as one update for each virtual batch would move them.
    """

    virtual_batch_size: Annotated[int, Range(at_least=2)] = 16  # examples per virtual batch

    joins_ranks: ClassVar[bool] = True

    @property
    def kept_block_size(self) -> int:
        return self.virtual_batch_size

    def build(self, context: BuildContext) -> Hooks:
        return self.build_hooks(context, "norm_ghost")

    def convert(self, model: nn.Module, collectives: Collectives = SingleProcess()) -> nn.Module:
        return change_layer_class(model, "ghost", GhostNorm, size=self.virtual_batch_size, collectives=collectives)

    def count_smallest_group(self, rank_examples: Sequence[int]) -> int:
        return min(min(split_virtual_batches(count, self.virtual_batch_size)) for count in rank_examples if count)

    def notes(self, facts: NormFacts) -> tuple[str, ...]:
        """Return the notes of the plan.

        Raises ConfigError if a micro-batch holds no more than one virtual batch.
        """
        if facts.micro_batch_size <= self.virtual_batch_size:
            fix = (
                f"use norm.virtual_batch_size={facts.micro_batch_size // 2}, or norm=per_rank"
                if facts.micro_batch_size > 3
                else "use norm=per_rank"
            )
            raise ConfigError(
                f"norm.virtual_batch_size={self.virtual_batch_size} must be smaller than the micro-batch "
                f"of {facts.micro_batch_size}; else it equals norm=per_rank",
                fix,
            )
        is_divisible = facts.batch_size % (facts.ranks * self.virtual_batch_size) == 0
        if is_divisible and (facts.accumulation == 1 or facts.micro_batch_size % self.virtual_batch_size == 0):
            return ()
        multiple = self.virtual_batch_size * max(1, round(facts.micro_batch_size / self.virtual_batch_size))
        return (
            f"virtual batches of {self.virtual_batch_size} do not divide each rank's micro-batches, so other layouts "
            f"form other virtual batches; they divide train.batch_size={facts.ranks * facts.accumulation * multiple}",
        )


class GhostNorm(BatchNormVariant, JointStatistics):
    """Batch normalization in virtual batches."""

    size: int
    collectives: Collectives

    def normalize(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return self.apply_torch_norm(inputs)
        # Placeholder rows are normalized as one virtual batch that is not measured.
        sizes = split_virtual_batches(len(inputs), self.size) if not is_ignoring_rows() else []
        statistics = torch.zeros(2, max(len(sizes), 1), self.num_features, device=inputs.device)
        outputs = normalize_virtual_batches(inputs, sizes, self.weight, self.bias, self.eps, statistics)
        measured = statistics if sizes else torch.zeros_like(statistics)
        sums = torch.cat([measured.sum(1).flatten(), measured.new_full((1,), len(sizes))])
        if self.track_running_stats:
            *means, count = torch.split(self.collectives.data_sum(sums), [self.num_features, self.num_features, 1])
            self.update_running_stats(means[0] / count, means[1] / count, count[0])
        return outputs


def split_virtual_batches(examples: int, size: int) -> list[int]:
    """Return the sizes of the virtual batches of `examples` examples.

    All are `size` but the last, which holds the rest; a rest below half of `size` joins the virtual
    batch before it.
    """
    full_count, remainder = divmod(examples, size)
    sizes = [size] * full_count
    if remainder and full_count and 2 * remainder < size:
        sizes[-1] += remainder
    elif remainder:
        sizes.append(remainder)
    return sizes


def normalize_virtual_batches(
    inputs: Tensor, sizes: list[int], weight: Tensor | None, bias: Tensor | None, eps: float, statistics: Tensor
) -> Tensor:
    """Split `inputs` [n, c, …] into virtual batches of `sizes` and normalize each by itself.

    Fills `statistics` [2, batches, c] with mean and unbiased variance of each virtual batch.
    """
    outputs = [
        # A momentum of 1 leaves the virtual batch's own statistics in the given buffers.
        nn.functional.batch_norm(
            virtual_batch, statistics[0, batch_index], statistics[1, batch_index], weight, bias, True, 1.0, eps
        )
        for batch_index, virtual_batch in enumerate(torch.split(inputs, sizes or [len(inputs)]))
    ]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
