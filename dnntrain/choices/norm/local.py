"""Batch normalisation with the statistics of each rank's own micro-batch (Ioffe & Szegedy, 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from dnntrain.choices.norm._convert import BatchChoice, BatchStatistics, NormFacts, local_note, restated
from dnntrain.protocols import Alone, Collectives, Context, Need, Parts


@dataclass(frozen=True)
class Local(BatchChoice):
    """Each rank normalises with its own examples: nothing is sent; other layouts give other numbers. Synchronised layers become local."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    def build(self, context: Context) -> Parts:
        return self.parts(context, "norm_local")

    def converted(self, model: nn.Module, collect: Collectives = Alone()) -> nn.Module:
        return restated(model, "local", LocalNorm)

    def notes(self, facts: NormFacts) -> tuple[str, ...]:
        """What the plan says."""
        return local_note(facts)


class LocalNorm(BatchStatistics):
    """Torch's batch normalisation, whatever the layer was."""

    def normalised(self, inputs: Tensor) -> Tensor:
        return self.plain(inputs)
