"""Layer normalisation over channels and pixels in the place of batch normalisation (Ba, Kiros & Hinton, 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dnntrain.choices.norm._convert import NormFacts, replaced
from dnntrain.choices.norm.group import group_norm
from dnntrain.protocols import Alone, Collectives, Context, ModelStage, ModelTransform, Need, Parts


@dataclass(frozen=True)
class Layer:
    """Each example is normalised over all channels and pixels of a layer, as group normalisation with one group does."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.WHOLE_LAYER})
    batch_statistics: ClassVar[bool] = False

    def build(self, context: Context) -> Parts:
        return Parts(model=(ModelTransform(ModelStage.NORM, self.converted),))

    def converted(self, model: nn.Module, collect: Collectives = Alone()) -> nn.Module:
        """`model` with layer normalisation. Raises ConfigError where it has no batch normalisation."""
        return replaced(model, "layer", lambda layer: group_norm(layer, 1, 1))

    def exported(self, model: nn.Module) -> nn.Module:
        """A newly built `model` in the form in which this choice exports it."""
        return self.converted(model)

    def notes(self, facts: NormFacts) -> tuple[str, ...]:
        """What the plan says."""
        return ()
