"""Batch normalisation with the statistics of all ranks' examples (Peng et al., "MegDet", 2018: cross-GPU batch normalisation)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from dnntrain.choices.norm._convert import BatchChoice, BatchStatistics, NormFacts, micro_batch_note, restated
from dnntrain.nn.precise_bn import moments, population
from dnntrain.protocols import Alone, Collectives, Context, Need, Parts


@dataclass(frozen=True)
class Sync(BatchChoice):
    """Mean and variance are those of the whole micro-batch over all ranks, uneven shares included: the numbers of one process.

    One sum over the ranks for each layer, forward and backward. On one rank it is plain batch normalisation.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def build(self, context: Context) -> Parts:
        return self.parts(context, "norm_sync")

    def converted(self, model: nn.Module, collect: Collectives = Alone()) -> nn.Module:
        return restated(model, "sync", SyncNorm, collect=collect)

    def notes(self, facts: NormFacts) -> tuple[str, ...]:
        """What the plan says."""
        alone = ("norm=sync on one rank is plain batch normalisation",) if facts.ranks == 1 else ()
        return alone + micro_batch_note(facts)


class SyncNorm(BatchStatistics):
    """Differs from nn.SyncBatchNorm in that it runs on any device, and over the data ranks of any layout."""

    collect: Collectives

    def normalised(self, inputs: Tensor) -> Tensor:
        # Evaluation never communicates: the ranks need not have as many batches.
        if not self.training or self.collect.data_ranks == 1:
            return self.plain(inputs)
        outputs, mean, var, count = synchronised(inputs, self.weight, self.bias, self.eps, self.collect)
        self.follow(mean, var * (count / (count - 1).clamp_min(1)))
        return outputs


def synchronised(
    inputs: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, collect: Collectives
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(outputs, mean [c], biased variance [c], count): (x - mean) / sqrt(var + eps) * weight + bias over the `inputs` of all ranks.

    inputs [n, c, …], n may differ between ranks and be 0. One differentiable sum of each rank's moments, in float64, in which merging
    them loses nothing of float32.
    """
    total = collect.data_sum(moments(inputs))
    mean, var = population(total)
    shape = (1, -1, *[1] * (inputs.ndim - 2))
    scale = (var + eps).rsqrt().float()
    if weight is not None:
        scale = scale * weight
    outputs = (inputs.float() - mean.float().view(shape)) * scale.view(shape)
    if bias is not None:
        outputs = outputs + bias.view(shape)
    return outputs.to(inputs.dtype), mean.detach(), var.detach(), total[-1].detach()
