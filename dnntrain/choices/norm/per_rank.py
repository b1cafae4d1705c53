"""Batch normalisation with the statistics of each rank's own micro-batch (Ioffe & Szegedy, 2015)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from dnntrain.choices.norm._convert import (
    BatchNormChoice,
    BatchNormVariant,
    change_layer_class,
    make_local_note,
)
from dnntrain.protocols import BuildContext, Collectives, Hooks, NormFacts, SingleProcess


@dataclass(frozen=True)
class PerRank(BatchNormChoice):
    """Each rank normalises with its own examples: nothing is sent; other layouts give other numbers. Synchronised layers become local."""

    def build(self, context: BuildContext) -> Hooks:
        return self.build_hooks(context, "norm_per_rank")

    def convert(self, model: nn.Module, collectives: Collectives = SingleProcess()) -> nn.Module:
        return change_layer_class(model, "per_rank", PerRankNorm)

    def notes(self, facts: NormFacts) -> tuple[str, ...]:
        """What the plan says."""
        return make_local_note(facts)


class PerRankNorm(BatchNormVariant):
    """Torch's batch normalisation, whatever the layer was."""

    def normalize(self, inputs: Tensor) -> Tensor:
        return self.apply_torch_norm(inputs)
