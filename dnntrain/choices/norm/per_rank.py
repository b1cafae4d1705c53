"""Batch normalization with the statistics of each rank's micro-batch (Ioffe & Szegedy, 2015)."""

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
    """Normalize on each rank with the statistics of its own examples.

    Ranks do not communicate, so results depend on the layout. Synchronized layers become local.
    """

    def build(self, context: BuildContext) -> Hooks:
        return self.build_hooks(context, "norm_per_rank")

    def convert(self, model: nn.Module, collectives: Collectives = SingleProcess()) -> nn.Module:
        return change_layer_class(model, "per_rank", PerRankNorm)

    def notes(self, facts: NormFacts) -> tuple[str, ...]:
        """Return the notes of the plan."""
        return make_local_note(facts)


class PerRankNorm(BatchNormVariant):
    """Torch's batch normalization, whatever the layer was."""

    def normalize(self, inputs: Tensor) -> Tensor:
        return self.apply_torch_norm(inputs)
