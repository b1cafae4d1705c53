"""Batch normalization with the statistics of all ranks' examples.

Peng et al., "MegDet", 2018: cross-GPU batch normalization.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from dnntrain.choices.norm._convert import (
    BatchNormChoice,
    BatchNormVariant,
    change_layer_class,
    make_micro_batch_note,
)
from dnntrain.nn.placeholder_rows import JointStatistics, is_ignoring_rows
from dnntrain.nn.precise_bn import compute_moments, compute_population
from dnntrain.protocols import BuildContext, Collectives, Hooks, NormFacts, SingleProcess


@dataclass(frozen=True)
class Sync(BatchNormChoice):
    """Normalize with mean and variance of the whole micro-batch over all ranks.

    Results match a run in one process, also if ranks have different numbers of examples. Each layer
    does one sum over the ranks, forward and backward. On one rank it is plain batch normalization.
    """

    joins_ranks: ClassVar[bool] = True

    def build(self, context: BuildContext) -> Hooks:
        return self.build_hooks(context, "norm_sync")

    def convert(self, model: nn.Module, collectives: Collectives = SingleProcess()) -> nn.Module:
        return change_layer_class(model, "sync", SyncNorm, collectives=collectives)

    def notes(self, facts: NormFacts) -> tuple[str, ...]:
        """Return the notes of the plan."""
        single_rank_notes = ("norm=sync on one rank is plain batch normalization",) if facts.ranks == 1 else ()
        joint_facts = replace(facts, micro_batch_size=facts.micro_batch_size * facts.ranks)
        return single_rank_notes + make_micro_batch_note(joint_facts)

    def count_smallest_group(self, rank_examples: Sequence[int]) -> int:
        return sum(rank_examples)


class SyncNorm(BatchNormVariant, JointStatistics):
    """Batch normalization over the data ranks of any layout.

    Unlike nn.SyncBatchNorm it runs on any device.
    """

    collectives: Collectives

    def normalize(self, inputs: Tensor) -> Tensor:
        # Evaluation never communicates: ranks may have different numbers of batches.
        if not self.training or self.collectives.data_ranks == 1:
            return self.apply_torch_norm(inputs)
        outputs, mean, var, count = normalize_over_ranks(inputs, self.weight, self.bias, self.eps, self.collectives)
        self.update_running_stats(mean, var * (count / (count - 1).clamp_min(1)))
        return outputs


def normalize_over_ranks(
    inputs: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    collectives: Collectives,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalize `inputs` [n, c, …] over all ranks; return (outputs, mean, variance, count).

    outputs = (x - mean) / sqrt(var + eps) * weight + bias, with the mean [c] and the biased
    variance [c] of the inputs of all ranks. n may differ between ranks. Placeholder rows
    are normalized but not measured. One differentiable sum merges
    the ranks' moments, in float64, which loses nothing of float32.
    """
    total = collectives.data_sum(compute_moments(inputs[:0] if is_ignoring_rows() else inputs))
    mean, var = compute_population(total)
    shape = (1, -1, *[1] * (inputs.ndim - 2))
    scale = (var + eps).rsqrt().float()
    if weight is not None:
        scale = scale * weight
    outputs = (inputs.float() - mean.float().view(shape)) * scale.view(shape)
    if bias is not None:
        outputs = outputs + bias.view(shape)
    return outputs.to(inputs.dtype), mean.detach(), var.detach(), total[-1].detach()
