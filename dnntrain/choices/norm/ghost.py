"""Ghost batch normalisation (Hoffer, Hubara & Soudry, "Train longer, generalize better", 2017, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dnntrain.choices.norm._convert import BatchChoice, BatchStatistics, NormFacts, restated
from dnntrain.config.fields import Annotated, Range
from dnntrain.errors import ConfigError
from dnntrain.protocols import Alone, Collectives, Context, Need, Parts


@dataclass(frozen=True)
class Ghost(BatchChoice):
    """Every `size` consecutive examples are normalised with statistics of their own, which regularises as a small batch does.

    Running statistics move as far as one update for each virtual batch would, towards the mean over those of all ranks.
    """

    size: Annotated[int, Range(at_least=2)] = 16  # examples of a virtual batch

    needs: ClassVar[frozenset[Need]] = frozenset()

    def build(self, context: Context) -> Parts:
        return self.parts(context, "norm_ghost")

    def converted(self, model: nn.Module, collect: Collectives = Alone()) -> nn.Module:
        return restated(model, "ghost", GhostNorm, size=self.size, collect=collect)

    def notes(self, facts: NormFacts) -> tuple[str, ...]:
        """What the plan says. Raises ConfigError where there is no more than one virtual batch."""
        if facts.micro_batch_size <= self.size:
            fix = (
                f"use norm.size={facts.micro_batch_size // 2}, or norm=local"
                if facts.micro_batch_size > 3
                else "use norm=local"
            )
            raise ConfigError(
                f"norm.size={self.size} is a whole micro-batch of {facts.micro_batch_size}: that is norm=local", fix
            )
        whole = facts.batch_size % (facts.ranks * self.size) == 0
        if whole and (facts.accumulation == 1 or facts.micro_batch_size % self.size == 0):
            return ()
        return (
            f"virtual batches of {self.size} do not divide each rank's micro-batches: other layouts form others; "
            f"a batch of {facts.ranks * facts.accumulation * self.size * max(1, round(facts.micro_batch_size / self.size))} divides",
        )


class GhostNorm(BatchStatistics):
    """Batch normalisation in virtual batches."""

    size: int
    collect: Collectives

    def normalised(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return self.plain(inputs)
        sizes = virtual_sizes(len(inputs), self.size)
        statistics = torch.zeros(2, max(len(sizes), 1), self.num_features, device=inputs.device)
        outputs = ghost_normalised(inputs, sizes, self.weight, self.bias, self.eps, statistics)
        sums = torch.cat([statistics.sum(1).flatten(), statistics.new_full((1,), len(sizes))])
        if self.track_running_stats:
            *means, count = torch.split(self.collect.data_sum(sums), [self.num_features, self.num_features, 1])
            self.follow(means[0] / count, means[1] / count, count[0])
        return outputs


def virtual_sizes(examples: int, size: int) -> list[int]:
    """Sizes of the virtual batches of `examples`: all of `size`, then the rest, which joins the one before where it is less than half."""
    whole, rest = divmod(examples, size)
    sizes = [size] * whole
    if rest and whole and 2 * rest < size:
        sizes[-1] += rest
    elif rest:
        sizes.append(rest)
    return sizes


def ghost_normalised(
    inputs: Tensor, sizes: list[int], weight: Tensor | None, bias: Tensor | None, eps: float, statistics: Tensor
) -> Tensor:
    """`inputs` [n, c, …], cut into `sizes` examples, each part normalised by itself.

    Fills `statistics` [2, parts, c] with mean and unbiased variance of each part.
    """
    parts = [
        # A momentum of 1 leaves the part's own statistics in the buffers that are given.
        nn.functional.batch_norm(part, statistics[0, at], statistics[1, at], weight, bias, True, 1.0, eps)
        for at, part in enumerate(torch.split(inputs, sizes or [0]))
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
